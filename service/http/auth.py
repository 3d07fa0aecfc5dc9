"""API keys over HTTP: which paths take one, and what a handler finds of it."""

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import Forbidden, Unauthorized
from service.http.problem_responses import answer
from service.http.static import ASSETS
from service.requests.keys import Keyring
from service.requests.quota import Caller, WorkBudget
from service.telemetry.metrics import Metrics
from service.telemetry.probes import PROBES

ADMIN = "/admin/"  # what begins so takes an administrator's key


def caller(request: Request) -> Caller:
    """As the request's key says."""
    return getattr(request.state, "caller", Caller())


def budget(request: Request) -> WorkBudget | None:
    """Of the request's key; None where it may ask for as much as it likes."""
    return getattr(request.state, "budget", None)


def is_open(path: str) -> bool:
    """Whether a path is answered without a key: the probes, and the page, which asks its reader for one."""
    return path in PROBES or path == "/" or path.startswith(f"{ASSETS}/")


def authorization(scope: Scope) -> bytes:
    return next((value for name, value in scope["headers"] if name == b"authorization"), b"")


class KeyCheck:
    """ASGI middleware: no answer without a key, but for what is open. The handler finds the key's budget."""

    def __init__(self, app: ASGIApp, keys: Keyring, metrics: Metrics) -> None:
        self.app = app
        self.keys = keys
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or is_open(scope["path"]):
            await self.app(scope, receive, send)
        elif (holder := self.keys.find(authorization(scope))) is None:
            await answer(Unauthorized(), scope["path"], self.metrics)(scope, receive, send)
        elif scope["path"].startswith(ADMIN) and not holder.caller.admin:
            await answer(Forbidden(holder.caller.name), scope["path"], self.metrics)(scope, receive, send)
        else:
            scope.setdefault("state", {}).update(budget=holder.budget, caller=holder.caller)
            await self.app(scope, receive, send)
