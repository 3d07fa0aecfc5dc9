"""h11's parser, within limits on what it would go through."""

import re
from typing import Any

import h11

from service.http.request_head import MAX_HEADERS

MAX_CHUNKS = 256  # of a body; each costs microseconds, however short it is
END_OF_HEAD = re.compile(rb"\n\r?\n")


class Parser(h11.Connection):
    """Of what a client sends.

    h11 parses a head of any length if it comes in one read, and a body in any number of chunks.
    """

    def __init__(self, max_header_bytes: int) -> None:
        super().__init__(h11.SERVER, max_header_bytes)
        self.max_header_bytes = max_header_bytes
        self.chunks = 0
        self.ends = False  # an answer was begun before the whole request was there

    def send(self, event: Any) -> Any:
        """Where h11 would let a client send what nobody reads, an answer to half a request says that it is the last."""
        content = super().send(event)
        if isinstance(event, h11.Response) and self.their_state is h11.SEND_BODY:
            self.ends = True
            return content.removesuffix(b"\r\n") + b"connection: close\r\n\r\n"
        return content

    def next_event(self) -> Any:
        """Raises RemoteProtocolError."""
        if self.their_state is h11.IDLE:
            self._check_head(self.trailing_data[0])
        event = super().next_event()
        if isinstance(event, h11.Request):
            self.chunks = 0
        elif isinstance(event, h11.Data) and event.chunk_start:
            self.chunks += 1
            if self.chunks > MAX_CHUNKS:
                raise h11.RemoteProtocolError(f"a body in more than {MAX_CHUNKS} chunks")
        return event

    def _check_head(self, received: bytes) -> None:
        end = END_OF_HEAD.search(received, 0, self.max_header_bytes)
        length = end.start() if end else len(received)
        if length > self.max_header_bytes or received.count(b"\n", 0, length) > MAX_HEADERS:
            raise h11.RemoteProtocolError("a head that is too long", error_status_hint=431)
