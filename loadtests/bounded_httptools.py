"""For `./run bench parser`: uvicorn's protocol on httptools, within the limits that the service has on h11."""

from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import HeadersTooLarge, MalformedRequest, Problem
from service.http.parser import MAX_CHUNKS
from service.http.problem_responses import response
from service.http.request_head import MAX_HEADERS

MAX_PIPELINED = 16  # httptools goes through all that was read, and cannot be stopped before the next request


class BoundedHttptools(HttpToolsProtocol):
    """Bounds the bytes and number of headers, the target, the chunks of a body, and the requests sent together.

    The body itself is the application's business. An offered upgrade is declined without losing the body.
    """

    def __init__(self, max_header_bytes: int, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self.max_header_bytes = max_header_bytes
        self.head_bytes = self.chunks = 0
        self.in_head = True

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            while data and not self.transport.is_closing():
                piece = data[: self.max_header_bytes] if self.in_head else data
                data = data[len(piece) :]
                self.head_bytes += len(piece) * self.in_head
                self._feed(piece)
                if self.in_head and self.head_bytes > self.max_header_bytes:
                    raise HeadersTooLarge(self.max_header_bytes, MAX_HEADERS)
        except httptools.HttpParserError as error:
            cause = error.__context__
            self.refuse(cause if isinstance(cause, Problem) else MalformedRequest(str(error)))
        except Problem as problem:
            self.refuse(problem)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.chunks = 0
        if not self.in_head:
            self.in_head, self.head_bytes = True, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) == MAX_HEADERS:
            raise HeadersTooLarge(self.max_header_bytes, MAX_HEADERS)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self.in_head = False
        if self.parser.should_upgrade():
            return  # it stops here, and `_feed` goes on
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() != "1.0"):
            raise MalformedRequest(f"{hosts} Host headers")
        if len(self.pipeline) == MAX_PIPELINED:
            raise MalformedRequest(f"more than {MAX_PIPELINED} requests sent together")
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def on_chunk_header(self) -> None:
        self.chunks += 1
        if self.chunks > MAX_CHUNKS:
            raise MalformedRequest(f"a body in more than {MAX_CHUNKS} chunks")

    def refuse(self, problem: Problem) -> None:
        answer = response(problem, "/")
        lines = [f"HTTP/1.1 {problem.status.value} {problem.status.phrase}".encode(), b"connection: close"]
        lines += [name + b": " + value for name, value in answer.raw_headers]
        self.transport.write(b"\r\n".join([*lines, b"", bytes(answer.body)]))
        self.transport.close()

    def _feed(self, piece: bytes) -> None:
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as offer:
            head = [self.parser.get_method() + b" " + self.url + b" HTTP/1.1"]
            head += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
            self.parser = httptools.HttpRequestParser(self)
            self._feed(b"\r\n".join([*head, b"", b""]) + piece[offer.args[0] :])
