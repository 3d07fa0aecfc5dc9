"""Requests out of what a client sends, one at a time: llhttp parses, within limits on what it would go through."""

import re
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import HeadersTooLarge, MalformedRequest, Problem, shortened
from service.http.request_head import MAX_HEADERS

MAX_CHUNKS = 256  # of a body; each costs microseconds, however short it is
END_OF_HEAD = re.compile(rb"\n\r?\n")
OFFER = re.compile(rb"\nUpgrade:[^\n]*", re.IGNORECASE)
VERSIONS = ("1.0", "1.1")


class RequestParser(HttpToolsProtocol):
    """llhttp goes through all that it is given, and keeps a header that does not end.

    So it is given a whole head, then the body of that request, and the next head when the request is answered.
    """

    def __init__(self, max_header_bytes: int, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self.max_header_bytes = max_header_bytes
        self.received = bytearray()  # what is not parsed yet
        self.reading_body = False
        self.ends = False  # nothing more of this connection is parsed: the answer says so
        self._body_left: int | None = None  # bytes; of a body in chunks this is not known
        self._chunks = 0
        self._idle_bytes = 0  # of a body in chunks, since there was something of a chunk in them

    def is_answered(self) -> bool:
        """Whether no request is being worked on."""
        return self.cycle is None or self.cycle.response_complete

    def parse(self) -> None:
        """Goes on with the request that is being read, or begins the next one. Raises Problem."""
        if not self.reading_body and self.is_answered():
            self._begin()
        while self.reading_body and self.received:
            piece = self._take(self.max_header_bytes if self._body_left is None else self._body_left)
            if self._body_left is not None:
                self._body_left -= len(piece)
            self._idle_bytes += len(piece)
            self._feed(piece)
            if self._body_left is None and self._idle_bytes > self.max_header_bytes:  # trailers
                raise HeadersTooLarge(self.max_header_bytes, MAX_HEADERS)

    def _begin(self) -> None:
        self.received = self.received.lstrip(b"\r\n")  # RFC 9112, section 2.2
        end = END_OF_HEAD.search(self.received, 0, self.max_header_bytes)
        length = end.start() if end else len(self.received)
        if length > self.max_header_bytes or self.received.count(b"\n", 0, length) > MAX_HEADERS:
            raise HeadersTooLarge(self.max_header_bytes, MAX_HEADERS)
        if end:
            self.parser = httptools.HttpRequestParser(self)
            self._feed(OFFER.sub(b"", self._take(end.end())))  # which need not be taken: RFC 9110, section 7.8
            if self.is_answered():
                raise MalformedRequest("no request")  # but HTTP/2's first lines

    def _take(self, count: int) -> bytes:
        piece = bytes(self.received[:count])
        del self.received[:count]
        return piece

    def _feed(self, piece: bytes) -> None:
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            pass  # CONNECT
        except httptools.HttpParserError as error:
            if not self.reading_body and not self.is_answered():  # more came with the end of a body in chunks
                self.ends = True
                return
            cause = error.__context__
            if isinstance(cause, Problem):
                raise cause from error
            if isinstance(error, httptools.HttpParserCallbackError):  # of uvicorn's, which parses the target
                raise MalformedRequest("its target is neither a path nor a URL") from error
            raise MalformedRequest(shortened(str(error))) from error

    def on_message_begin(self) -> None:
        if not self.is_answered():
            raise MalformedRequest("another request in the same piece")
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.reading_body:  # else it is a trailer
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        hosts = sum(name == b"host" for name, _ in self.headers)
        codings = [value for name, value in self.headers if name == b"transfer-encoding"]
        version = self.parser.get_http_version()
        if version not in VERSIONS:
            raise MalformedRequest(f"HTTP/{version}; send {' or '.join(VERSIONS)}")
        if hosts > 1 or (hosts == 0 and version != "1.0"):
            raise MalformedRequest(f"{hosts} Host headers; send one")
        if codings and (version == "1.0" or [coding.lower() for coding in codings] != [b"chunked"]):
            raise MalformedRequest("a Transfer-Encoding that is not chunked")
        super().on_headers_complete()
        self.reading_body = True
        self._chunks = self._idle_bytes = 0
        self._body_left = None if codings else sum(int(v) for name, v in self.headers if name == b"content-length")

    def on_chunk_header(self) -> None:
        """For httptools. Raises MalformedRequest."""
        self._idle_bytes = 0
        self._chunks += 1
        if self._chunks > MAX_CHUNKS:
            raise MalformedRequest(f"a body in more than {MAX_CHUNKS} chunks")

    def on_body(self, body: bytes) -> None:
        self._idle_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.reading_body = False
        super().on_message_complete()
