"""How much a request may send, and how slowly. Its body is read whole before the application sees it, as a body here is
a line of JSON, or some pictures.

A request with pictures may send more, but no more structure than a short body has: so its JSON takes the event loop
little longer to parse.

Starlette has a limit too, but where the length is declared it answers in plain text, whatever the application says.
"""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BodyTooLarge, EncodedBody, MalformedBody, Problem, RequestTimeout, Unavailable
from service.http.problem_responses import answer
from service.telemetry.metrics import Metrics

UPLOADING = frozenset({"/generate", "/invert", "/likelihood", "/v1/images/edits", "/v1/images/variations"})
NO_JSON = ("multipart/", "image/", "application/x-npy")  # how the media type of another body begins
MAX_UPLOADS = 16  # bodies longer than `max_bytes` at a time, until they are answered
STRUCTURE = b'",:[]{}\\'  # each costs a parser of JSON more than another character of a string


class BodyLimit:
    """ASGI middleware: a body longer than `max_bytes` gets 413, before it is sent where its length is declared.

    Where it may have pictures the limit is `max_upload_bytes`. A body that takes longer than `timeout_s` gets 408.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, max_upload_bytes: int, timeout_s: float, metrics: Metrics) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.max_upload_bytes = max(max_bytes, max_upload_bytes)
        self.timeout_s = timeout_s
        self.metrics = metrics
        self._uploads = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        most = self.max_upload_bytes if scope["path"] in UPLOADING else self.max_bytes
        with ExitStack() as until_answered:
            try:
                body = await self._read(Headers(scope=scope), receive, most, until_answered)
            except Problem as problem:
                await answer(problem, scope["path"], self.metrics)(scope, receive, send)
                return
            unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

            async def replay() -> Message:
                return unread.pop() if unread else await receive()

            await self.app(scope, replay, send)

    async def _read(self, headers: Headers, receive: Receive, most: int, until_answered: ExitStack) -> bytes:
        """The whole body. Raises EncodedBody, RequestTimeout, and what `_collect` does."""
        coding, declared = headers.get("content-encoding", ""), headers.get("content-length", "")
        if coding.lower() not in ("", "identity"):
            raise EncodedBody(coding)
        if declared.isdecimal() and (len(declared) > 18 or int(declared) > most):  # int() has a limit too
            raise BodyTooLarge(most)
        try:
            async with asyncio.timeout(self.timeout_s):
                body = await self._collect(receive, most, until_answered)
        except TimeoutError:
            raise RequestTimeout(self.timeout_s) from None
        is_json = len(body) > self.max_bytes and not headers.get("content-type", "").lower().startswith(NO_JSON)
        if is_json and sum(body.count(character) for character in STRUCTURE) > self.max_bytes // 4:
            raise BodyTooLarge(self.max_bytes, "what is not a picture in the body")
        return body

    async def _collect(self, receive: Receive, most: int, until_answered: ExitStack) -> bytes:
        """Raises BodyTooLarge, Unavailable at MAX_UPLOADS, or MalformedBody where the body is cut off."""
        body, more, is_upload = bytearray(), True, False
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise MalformedBody("the connection ended before the body did")
            body += message.get("body", b"")
            if len(body) > most:
                raise BodyTooLarge(most)
            if len(body) > self.max_bytes and not is_upload:
                until_answered.enter_context(self._upload())
                is_upload = True
            more = message.get("more_body", False)
        return bytes(body)

    @contextmanager
    def _upload(self) -> Iterator[None]:
        if self._uploads == MAX_UPLOADS:
            raise Unavailable(f"{MAX_UPLOADS} large bodies are under way")
        self._uploads += 1
        try:
            yield
        finally:
            self._uploads -= 1
