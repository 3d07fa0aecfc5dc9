"""How much a request may send, and how slowly. Its body is read whole before the application sees it: a line of JSON,
or an image, of which few are held at a time.

Starlette has a limit too, but where the length is declared it answers in plain text, whatever the application says.
"""

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BodyTooLarge, EncodedBody, MalformedBody, Problem, RequestTimeout, Unavailable
from service.http.problem_responses import answer
from service.telemetry.metrics import Metrics

UPLOADS = 32  # requests at a time whose body is longer than one of JSON may be
UPLOAD_TYPES = ("image/", "application/x-npy")  # how the media type of an image or an array begins


class BodyLimit:
    """ASGI middleware: a body longer than `max_bytes` gets 413, before it is sent where its length is declared.

    For an image or an array it is `max_upload_bytes`, and with UPLOADS under way another gets 503. A body that takes
    longer than `timeout_s` gets 408.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, max_upload_bytes: int, timeout_s: float, metrics: Metrics) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.max_upload_bytes = max(max_bytes, max_upload_bytes)
        self.timeout_s = timeout_s
        self.metrics = metrics
        self.uploads: set[int] = set()  # under way

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            await self._pass_on(scope, receive, send)
        finally:
            self.uploads.discard(id(scope))

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await self._read(id(scope), Headers(scope=scope), receive)
        except Problem as problem:
            await answer(problem, scope["path"], self.metrics)(scope, receive, send)
            return
        unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        del body  # it is let go once the application has read it

        async def replay() -> Message:
            return unread.pop() if unread else await receive()

        await self.app(scope, replay, send)

    async def _read(self, request: int, headers: Headers, receive: Receive) -> bytes:
        """The whole body. Raises EncodedBody, BodyTooLarge, RequestTimeout, Unavailable, or MalformedBody if cut."""
        coding, declared = headers.get("content-encoding", ""), headers.get("content-length", "")
        is_upload = headers.get("content-type", "").lower().startswith(UPLOAD_TYPES)
        most = self.max_upload_bytes if is_upload else self.max_bytes
        if coding.lower() not in ("", "identity"):
            raise EncodedBody(coding)
        if declared.isdecimal() and (len(declared) > 18 or int(declared) > most):  # int() has a limit too
            raise BodyTooLarge(most)
        try:
            async with asyncio.timeout(self.timeout_s):
                return await self._collect(request, most, receive)
        except TimeoutError:
            raise RequestTimeout(self.timeout_s) from None

    async def _collect(self, request: int, most: int, receive: Receive) -> bytes:
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise MalformedBody("the connection ended before the body did")
            body += message.get("body", b"")
            if len(body) > most:
                raise BodyTooLarge(most)
            if len(body) > self.max_bytes:
                self._hold(request)
            more = message.get("more_body", False)
        return bytes(body)

    def _hold(self, request: int) -> None:
        """Raises Unavailable if there are too many uploads already."""
        if request not in self.uploads and len(self.uploads) == UPLOADS:
            raise Unavailable(f"{UPLOADS} uploads are under way")
        self.uploads.add(request)
