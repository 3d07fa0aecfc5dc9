"""How much a request may send. It is read whole before the application sees it, as a body here is a line of JSON.

Starlette has a limit too, but where the length is declared it answers in plain text, whatever the application says.
"""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BodyTooLarge
from service.http.problem_responses import answer
from service.telemetry.metrics import Metrics


class BodyLimit:
    """ASGI middleware: a body longer than `max_bytes` gets 413, before it is sent where its length is declared."""

    def __init__(self, app: ASGIApp, max_bytes: int, metrics: Metrics) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = await self._read(Headers(scope=scope).get("content-length", ""), receive)
        if body is None:
            await answer(BodyTooLarge(self.max_bytes), scope["path"], self.metrics)(scope, receive, send)
            return
        unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return unread.pop() if unread else await receive()

        await self.app(scope, replay, send)

    async def _read(self, declared: str, receive: Receive) -> bytes | None:
        """The whole body; None if it is too long."""
        if declared.isdecimal() and int(declared) > self.max_bytes:
            return None
        body, more = bytearray(), True
        while more and len(body) <= self.max_bytes:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        return bytes(body) if len(body) <= self.max_bytes else None
