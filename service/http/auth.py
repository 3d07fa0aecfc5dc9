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
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import Forbidden, Unauthorized
from service.http.problem_responses import answer
from service.http.static import ASSETS
from service.requests.quota import Caller, WorkBudget
from service.telemetry.metrics import Metrics
from service.telemetry.probes import PROBES

MAX_FILE_BYTES = 2**24
ADMIN = "/admin/"  # what begins so takes an administrator's key


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


def caller(request: Request) -> Caller:
    """As the request's key says."""
    return getattr(request.state, "caller", Caller())


def budget(request: Request) -> WorkBudget | None:
    """Of the request's key; None where it may ask for as much as it likes."""
    return getattr(request.state, "budget", None)


def is_open(path: str) -> bool:
    """Whether a path is answered without a key: the probes, and the page, which asks its reader for one."""
    return path in PROBES or path == "/" or path.startswith(f"{ASSETS}/")


class KeyCheck:
    """ASGI middleware: no answer without a key, but for what is open. The handler finds the key's budget."""

    def __init__(self, app: ASGIApp, keys: Mapping[str, Key], metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics
        self.digests = {name: key.sha256 for name, key in keys.items()}
        self.callers = {name: Caller(name, key.admin) for name, key in keys.items()}
        self.budgets = {
            name: WorkBudget(name, key.work_s_per_minute)
            for name, key in keys.items()
            if key.work_s_per_minute is not None
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or is_open(scope["path"]):
            await self.app(scope, receive, send)
        elif (name := self.find(Headers(scope=scope).get("authorization", ""))) is None:
            await answer(Unauthorized(), scope["path"], self.metrics)(scope, receive, send)
        elif scope["path"].startswith(ADMIN) and not self.callers[name].admin:
            await answer(Forbidden(name), scope["path"], self.metrics)(scope, receive, send)
        else:
            scope.setdefault("state", {}).update(budget=self.budgets.get(name), caller=self.callers[name])
            await self.app(scope, receive, send)

    def find(self, authorization: str) -> str | None:
        """The name of the key that the header has. It takes the same time whichever key it is, or none."""
        scheme, _, secret = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return None
        digest = hashlib.sha256(secret.strip(" \t").encode("latin-1")).hexdigest()  # the bytes that were sent
        names = [name for name, expected in self.digests.items() if hmac.compare_digest(digest, expected)]
        return names[0] if names else None
