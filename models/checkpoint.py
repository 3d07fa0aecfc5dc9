"""A checkpoint: a folder with `model.safetensors`, the EMA weights, and `model.json`, what it is and where from."""

import hashlib
import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models import atomic, families
from models.failures import CheckpointError

WEIGHTS, CARD = "model.safetensors", "model.json"


class Card(BaseModel):
    """What `model.json` says: enough to build the network again, and where its weights came from."""

    model_config = ConfigDict(extra="forbid")

    name: str  # what callers ask for as `method`
    family: str  # the folder under models/
    shape: tuple[int, int, int]  # (C, H, W) of an image
    classes: list[str]
    noise_schedule: dict[str, Any]
    network: dict[str, Any]  # the family's own settings of its network
    recommended_steps: int
    training: dict[str, Any]  # settings, data digest, seed, package versions, images seen

    @property
    def latent(self) -> int:
        """How many standard normal numbers z the network takes; 0: none."""
        return int(self.network.get("latent", 0))

    @property
    def state_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what is denoised: an image, or a latent."""
        depth, height, width = self.network.get("state_shape", self.shape)
        return depth, height, width

    @property
    def decodes(self) -> bool:
        """Whether the network's `decode` makes images of what is denoised."""
        return self.state_shape != self.shape

    def build(self) -> nn.Module:
        """A network with fresh weights."""
        module = import_module(f"models.{self.family}.network")
        network: nn.Module = module.Network(
            shape=self.shape, classes=len(self.classes), schedule=self.noise_schedule, **self.network
        )
        return network


def save(folder: Path, card: Card, weights: Mapping[str, Tensor]) -> None:
    """Writes the checkpoint; what is in the folder is replaced whole, card and weights together."""
    with atomic.replacing(folder) as partial:
        write(partial, card, weights)


def write(folder: Path, card: Card, weights: Mapping[str, Tensor]) -> None:
    """Writes the two files into a folder that `atomic.replacing` gave."""
    write_tensors(weights, folder / WEIGHTS)
    (folder / CARD).write_text(json.dumps(card.model_dump(), indent=1) + "\n")


def halved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as files keep them: float16 in place of float32. A network that loads them computes in float32."""
    return {name: value.half() if value.dtype == torch.float32 else value for name, value in tensors.items()}


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes a safetensors file. Raises OSError if it cannot."""
    try:
        save_file({name: torch.as_tensor(t).detach().contiguous() for name, t in tensors.items()}, path)
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises CheckpointError if it is missing, or is none."""
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return tensors


def load(folder: Path) -> tuple[Card, nn.Module]:
    """The card and the network with its EMA weights, in evaluation mode, though a training goes on in the folder.

    Raises CheckpointError naming the file that is missing, unreadable or unlike the other.
    """
    card, weights = _read(folder)
    try:
        network = card.build()
        network.load_state_dict(weights)
    except (RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / WEIGHTS}: not the network that {CARD} says ({one_line(error)})") from error
    return card, network.eval()


def _read(folder: Path) -> tuple[Card, dict[str, Tensor]]:
    try:
        before = atomic.versions(folder, (CARD, WEIGHTS))
        card, weights = read_card(folder), read_tensors(folder / WEIGHTS)
        return (card, weights) if atomic.versions(folder, (CARD, WEIGHTS)) == before else _read(folder)
    except FileNotFoundError as error:
        raise CheckpointError(f"{error.filename}: {error.strerror}") from error


def read_card(folder: Path) -> Card:
    """Raises CheckpointError for a card that is missing or not understood; the message names the key."""
    path = folder / CARD
    try:
        card = Card.model_validate_json(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in error.errors())
        raise CheckpointError(f"{path}: {problems}") from error
    if card.family not in families.names():
        raise CheckpointError(f"{path}: no family {card.family!r}: the families are {', '.join(families.names())}")
    return card


def load_matching(network: nn.Module, folder: Path) -> None:
    """Gives `network` the checkpoint's weights where both have one of that name and shape; says how many there were.

    A network's ALIASES are other names of its own weights, as another family's checkpoint may have them.
    Raises CheckpointError if there is none, or one is not finite.
    """
    atomic.finish(folder)
    own = network.state_dict()
    stored = read_tensors(folder / WEIGHTS)
    aliases = getattr(network, "ALIASES", {})
    candidates = {name: stored.get(name, stored.get(aliases.get(name, name))) for name in own}
    matching = {
        name: value for name, value in candidates.items() if value is not None and value.shape == own[name].shape
    }
    if not matching:
        raise CheckpointError(f"{folder}: no weight fits the network")
    if name := not_finite(matching):
        raise CheckpointError(f"{folder / WEIGHTS}: {name} is not finite")
    network.load_state_dict(matching, strict=False)
    print(f"{folder}: {len(matching)} of the network's {len(own)} tensors, {len(stored)} in the file", flush=True)


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of a tensor with a NaN or an infinity, if there is one."""
    return next((name for name, value in tensors.items() if not value.isfinite().all()), None)


def digest(folder: Path) -> str:
    """SHA-256 of the checkpoint's weights. Raises CheckpointError if there are none."""
    try:
        with (folder / WEIGHTS).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{folder / WEIGHTS}: {error.strerror}") from error


def one_line(error: Exception) -> str:
    """The error's message without line breaks."""
    return " ".join(str(error).split())
