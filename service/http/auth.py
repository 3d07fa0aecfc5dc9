"""API keys, where the operator wants them: who may call, and how much work a minute they may ask for.

A key is a secret that its holder sends as `Authorization: Bearer SECRET`. The file has its SHA-256 alone:

    [alice]
    sha256 = "2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90"
    work_s_per_minute = 30     # predicted seconds of the network; absent: as much as she likes
    admin = true               # may reload, and cancel anybody's requests; absent: her own alone
"""

import hashlib
import hmac
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, TypeAdapter
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import Forbidden, KeySpent, Problem, Unauthorized
from service.http.problem_responses import answer
from service.http.static import ASSETS
from service.telemetry.metrics import Metrics

ADMIN = "/admin/"  # what begins so takes an administrator's key
# Asked by machines that have no key; a proxy keeps them from the world.
OPEN = {"/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"}


class Key(BaseModel):
    """A line of the file."""

    model_config = ConfigDict(extra="forbid")

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    work_s_per_minute: PositiveFloat | None = None
    admin: bool = False


@dataclass(frozen=True)
class Caller:
    """Whose key a request came with; without a file of keys anybody may do anything."""

    name: str = ""
    admin: bool = True


class Account:
    """What a key may still ask for. A request may overdraw it, so that a large one passes too; then it must recover."""

    def __init__(self, name: str, work_s_per_minute: float) -> None:
        self.name = name
        self.most_s = self.left_s = work_s_per_minute
        self.per_s = work_s_per_minute / 60
        self.updated_s = 0.0

    def take(self, work_s: float, now: float) -> None:
        """Takes the work from what is left. Raises KeySpent if nothing is left."""
        self.left_s = min(self.most_s, self.left_s + (now - self.updated_s) * self.per_s)
        self.updated_s = now
        if self.left_s <= 0:
            raise KeySpent(self.name, -self.left_s / self.per_s)
        self.left_s -= work_s


def read(path: Path) -> dict[str, Key]:
    """The keys by name. Raises OSError or ValueError for a file that is not there or not as above."""
    return TypeAdapter(dict[str, Key]).validate_python(tomllib.loads(path.read_text()))


@contextmanager
def charged(account: Account | None, work_s: float) -> Iterator[None]:
    """Takes the work from the account, if there is one, and gives it back if it comes to nothing.

    Raises KeySpent.
    """
    if account is not None:
        account.take(work_s, time.monotonic())
    try:
        yield
    except Problem:
        if account is not None:
            account.left_s += work_s
        raise


def caller(request: Request) -> Caller:
    """As the request's key says."""
    return getattr(request.state, "caller", Caller())


def is_open(path: str) -> bool:
    """Whether a path is answered without a key: OPEN, and the page, which asks its reader for one."""
    return path in OPEN or path == "/" or path.startswith(f"{ASSETS}/")


class KeyCheck:
    """ASGI middleware: no answer without a key, but for what is open. The handler finds the key's account."""

    def __init__(self, app: ASGIApp, keys: Mapping[str, Key], metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics
        self.digests = {name: key.sha256 for name, key in keys.items()}
        self.callers = {name: Caller(name, key.admin) for name, key in keys.items()}
        self.accounts = {n: Account(n, k.work_s_per_minute) for n, k in keys.items() if k.work_s_per_minute is not None}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or is_open(scope["path"]):
            await self.app(scope, receive, send)
        elif (name := self.find(Headers(scope=scope).get("authorization", ""))) is None:
            await answer(Unauthorized(), scope["path"], self.metrics)(scope, receive, send)
        elif scope["path"].startswith(ADMIN) and not self.callers[name].admin:
            await answer(Forbidden(name), scope["path"], self.metrics)(scope, receive, send)
        else:
            scope.setdefault("state", {}).update(account=self.accounts.get(name), caller=self.callers[name])
            await self.app(scope, receive, send)

    def find(self, authorization: str) -> str | None:
        """The name of the key that the header has. It takes the same time whichever key it is, or none."""
        scheme, _, secret = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return None
        digest = hashlib.sha256(secret.strip().encode()).hexdigest()
        found = [name for name, known in self.digests.items() if hmac.compare_digest(digest, known)]
        return found[0] if found else None
