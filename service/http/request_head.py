"""What the head of a request may be, before anything else looks at it: its size, and how it frames its body."""

from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import HeadersTooLarge, MalformedRequest, Problem
from service.http.problem_responses import answer
from service.telemetry.metrics import Metrics

MAX_HEADERS = 100
LISTS = (b"accept", b"if-none-match")  # read here, and a client may send them in several lines


class RequestHead:
    """ASGI middleware: refuses a head that is too long or ambiguous, and joins the lines of a list (RFC 9110, 5.3)."""

    def __init__(self, app: ASGIApp, max_bytes: int, metrics: Metrics) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if (problem := self._problem(scope)) is not None:
                await answer(problem, scope["path"], self.metrics)(scope, receive, send)
                return
            scope["headers"] = joined(scope["headers"])
        await self.app(scope, receive, send)

    def _problem(self, scope: Scope) -> Problem | None:
        headers = scope["headers"]
        size = len(scope.get("raw_path") or b"") + len(scope["query_string"])
        size += sum(len(name) + len(value) for name, value in headers)
        if len(headers) > MAX_HEADERS or size > self.max_bytes:
            return HeadersTooLarge(self.max_bytes, MAX_HEADERS)
        names = {name for name, _ in headers}
        if {b"content-length", b"transfer-encoding"} <= names:  # a proxy may have read the other one (RFC 9112, 6.1)
            return MalformedRequest("both Content-Length and Transfer-Encoding; send one")
        return None


def joined(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers, each of LISTS in one line."""
    lines = {name: [value for other, value in headers if other == name] for name in LISTS}
    repeated = {name: b", ".join(values) for name, values in lines.items() if len(values) > 1}
    if not repeated:
        return headers
    return [header for header in headers if header[0] not in repeated] + list(repeated.items())
