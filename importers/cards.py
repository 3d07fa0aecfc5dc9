"""A card: what a published file does not say of itself.

A TOML file with `format`, what is known of the model, and `[settings]`, which has the original code's own names for its
flags. Cards for published files lie in `published_cards/` and are chosen by the file's name.
"""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from importers.formats import Format
from importers.problems import ImportProblem

MAX_BYTES = 10_000_000
PUBLISHED = Path(__file__).parent / "published_cards"


AnySettings = TypeVar("AnySettings", bound=BaseModel)


class Settings(BaseModel):
    """The flags of one format. A flag that is not there is refused by its name."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Card(Settings):
    """What a card says. `files`: names of the published files that it is for."""

    format: Format
    files: tuple[str, ...] = ()
    data: str = ""  # the data set's name
    classes: tuple[str, ...] = ()  # their names; numbers stand in where there are none
    licence: str = ""
    source: str = ""  # where the file was published
    settings: dict[str, Any] = {}

    @property
    def facts(self) -> dict[str, str]:
        """What it says for people."""
        return {"data": self.data, "licence": self.licence, "source": self.source}

    def names(self, count: int) -> tuple[str, ...]:
        """The names of its classes, or `count` numbers where it has none."""
        return self.classes or tuple(str(label) for label in range(count))

    def flags(self, model: type[AnySettings], path: Path) -> AnySettings:
        """Its settings for the file at `path`, as `model` has them. Raises ImportProblem."""
        return parse(self.settings, model, f"the card for {path.name}: settings")


def load(path: Path) -> Card:
    """The card in a TOML file, or in a JSON file by its name. Raises ImportProblem."""
    kind, read = ("JSON", json.loads) if path.suffix == ".json" else ("TOML", tomllib.loads)
    try:
        if path.exists() and (not path.is_file() or path.stat().st_size > MAX_BYTES):
            raise ImportProblem(f"{path.name}: no card: no regular file of at most {MAX_BYTES:,} bytes")
        table = read(path.read_text())
    except (OSError, ValueError, RecursionError) as error:  # of the text's coding, and of both kinds' grammar
        raise ImportProblem(f"{path.name}: cannot be read as {kind} ({error})") from error
    return parse(table, Card, path.name)


def published(file_name: str) -> Card | None:
    """The card that comes with this project for a published file of that name."""
    for path in sorted(PUBLISHED.glob("*.toml")):
        card = load(path)
        if file_name in card.files:
            return card
    return None


def parse(table: object, model: type[AnySettings], source: str) -> AnySettings:
    """`table` as `model` has it. Raises ImportProblem that names the first field that is wrong."""
    try:
        return model.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ImportProblem(f"{source}: {where}: {first['msg']}") from error


def compare(flags: Settings, shown: Mapping[str, Any], source: str, witness: str) -> None:
    """Raises ImportProblem for a flag that is set, not to None, and is not what the file shows of it.

    `witness` says in the message what showed it: "the weights say".
    """
    for name, value in shown.items():
        flag = getattr(flags, name, None)
        if flag is not None and flag != value:
            raise ImportProblem(f"{source}: the card says {name} = {flag}, {witness} {value}")
