"""How much a request may send, and how slowly. Its body is read whole before the application sees it, as a body here is
a line of JSON.

Starlette has a limit too, but where the length is declared it answers in plain text, whatever the application says.
"""

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BodyTooLarge, EncodedBody, MalformedBody, Problem, RequestTimeout
from service.http.problem_responses import answer
from service.telemetry.metrics import Metrics


class BodyLimit:
    """ASGI middleware: a body longer than `max_bytes` gets 413, before it is sent where its length is declared.

    One that takes longer than `timeout_s` gets 408.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, timeout_s: float, metrics: Metrics) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.timeout_s = timeout_s
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            body = await self._read(Headers(scope=scope), receive)
        except Problem as problem:
            await answer(problem, scope["path"], self.metrics)(scope, receive, send)
            return
        unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return unread.pop() if unread else await receive()

        await self.app(scope, replay, send)

    async def _read(self, headers: Headers, receive: Receive) -> bytes:
        """The whole body. Raises EncodedBody, BodyTooLarge, RequestTimeout, or MalformedBody where it is cut off."""
        coding, declared = headers.get("content-encoding", ""), headers.get("content-length", "")
        if coding.lower() not in ("", "identity"):
            raise EncodedBody(coding)
        if declared.isdecimal() and (len(declared) > 18 or int(declared) > self.max_bytes):  # int() has a limit too
            raise BodyTooLarge(self.max_bytes)
        try:
            async with asyncio.timeout(self.timeout_s):
                return await self._collect(receive)
        except TimeoutError:
            raise RequestTimeout(self.timeout_s) from None

    async def _collect(self, receive: Receive) -> bytes:
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise MalformedBody("the connection ended before the body did")
            body += message.get("body", b"")
            if len(body) > self.max_bytes:
                raise BodyTooLarge(self.max_bytes)
            more = message.get("more_body", False)
        return bytes(body)
