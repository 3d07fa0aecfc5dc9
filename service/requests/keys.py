"""API keys, where the operator wants them: who may call, and how much work a minute they may ask for.

A key is a secret that its holder sends as `Authorization: Bearer SECRET`. The file has its SHA-256 alone:

    [alice]
    sha256 = "2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90"
    work_s_per_minute = 30     # predicted seconds of the network; absent: as much as she likes
    admin = true               # may reload, and cancel anybody's requests; absent: her own alone
"""

import hashlib
import hmac
import stat
import tomllib
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError

from service.requests.quota import Caller, WorkBudget

MAX_FILE_BYTES = 2**24


class Key(BaseModel):
    """A line of the file."""

    model_config = ConfigDict(extra="forbid")

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    work_s_per_minute: Annotated[FiniteFloat, Field(ge=0.001)] | None = None
    admin: bool = False


def read(path: Path) -> dict[str, Key]:
    """The keys by name. Raises OSError or ValueError for a file that is not there or not as above."""
    about = path.stat()
    if not stat.S_ISREG(about.st_mode) or about.st_size > MAX_FILE_BYTES:  # a FIFO may keep it waiting for ever
        raise ValueError(f"{path}: it is no regular file of at most {MAX_FILE_BYTES:,} bytes")
    try:
        return TypeAdapter(dict[str, Key]).validate_python(tomllib.loads(path.read_text()))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:  # of TOML, and of UTF-8; of lists in lists
        raise ValueError(f"{path}: {error}") from error


class Holder(NamedTuple):
    """Who holds a key, and what is left of its work; no budget where it may ask for as much as it likes."""

    caller: Caller
    budget: WorkBudget | None


class Keyring:
    """The keys that are known, with one budget each, whichever protocol spends it."""

    def __init__(self, path: Path) -> None:
        """Raises what `read` raises."""
        self._holders = [
            (
                key.sha256,
                Holder(
                    Caller(name, key.admin),
                    None if key.work_s_per_minute is None else WorkBudget(name, key.work_s_per_minute),
                ),
            )
            for name, key in read(path).items()
        ]

    def find(self, authorization: bytes) -> Holder | None:
        """Whose key the header has. It takes the same time whichever key it is, or none."""
        scheme, _, secret = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        digest = hashlib.sha256(secret.strip(b" \t")).hexdigest()
        holders = [holder for expected, holder in self._holders if hmac.compare_digest(digest, expected)]
        return holders[0] if holders else None
