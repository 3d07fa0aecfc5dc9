"""A connection: uvicorn runs its requests and h11 parses them, within limits here on what its client may send, and on
how long it may take.
"""

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.errors import HeadersTooLarge, MalformedRequest, Problem, RequestTimeout, Unavailable, shortened
from service.http.connection_limit import GRACE_S, ConnectionLimit
from service.http.problem_responses import answer
from service.http.request_head import MAX_HEADERS
from service.telemetry.metrics import Metrics
from service.telemetry.probes import PROBES

PIECE = 4096  # bytes parsed at a time, so that one read from the socket is not parsed far beyond a limit
MAX_PIECES = 1024  # of a body, as its chunks and packets come; each costs microseconds
LINGER_S = 2.0  # after an answer to half a request: its client still sends, and closing at once would lose the answer
PROBE_LINES = tuple(f"{verb} {path} ".encode() for verb in ("GET", "HEAD") for path in PROBES)


class Deadline:
    """A call that is made unless it is stopped before its time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._call: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self, seconds: float, call: Callable[[], None]) -> None:
        """Goes on if the same call is waited for."""
        if call != self._call:
            self.stop()
            self._call, self._timer = call, self._loop.call_later(seconds, call)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._call = self._timer = None


class Parser(h11.Connection):
    """h11's, which takes a body in so many pieces at most, and says so where an answer ends the connection."""

    pieces = 0
    ends = False  # an answer was begun before its request was there

    def send(self, event: Any) -> Any:
        """h11 would let a client go on sending what nobody reads."""
        content = super().send(event)
        if isinstance(event, h11.Response) and self.their_state is h11.SEND_BODY:
            self.ends = True
            return content.removesuffix(b"\r\n") + b"connection: close\r\n\r\n"
        return content

    def next_event(self) -> Any:
        """Raises RemoteProtocolError."""
        event = super().next_event()
        if isinstance(event, h11.Request):
            self.pieces = 0
        elif isinstance(event, h11.Data):
            self.pieces += 1
            if self.pieces > MAX_PIECES:
                raise h11.RemoteProtocolError(f"a body in more than {MAX_PIECES} pieces")
        return event


class Connection(H11Protocol):
    """For uvicorn's `Config(http=...)`. Its client may take `timeout_s` to send a head, or to read more of an answer.

    A body's time is the application's business.
    """

    conn: Parser

    def __init__(
        self, limit: ConnectionLimit, max_header_bytes: int, timeout_s: float, metrics: Metrics, **uvicorns: Any
    ) -> None:
        super().__init__(**uvicorns)
        self.limit = limit
        self.max_header_bytes = max_header_bytes
        self.timeout_s = timeout_s
        self.metrics = metrics
        self.conn = Parser(h11.SERVER, max_header_bytes)
        self.lingering = False  # what comes is thrown away
        self.reading = Deadline(self.loop)
        self.writing = Deadline(self.loop)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.limit.opened(transport)
        self.reading.start(GRACE_S if transport in self.limit.surplus else self.timeout_s, self._expire)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.reading.stop()
        self.writing.stop()
        self.limit.closed(self.transport)

    def data_received(self, data: bytes) -> None:
        if self.lingering:
            return
        if self.transport in self.limit.surplus and self._begins() and not data.startswith(PROBE_LINES):
            self.refuse(Unavailable("there are too many connections"))
            return
        for start in range(0, len(data), PIECE):
            super().data_received(data[start : start + PIECE])
            if self.lingering or self.transport.is_closing():
                return
        self._watch()

    def on_response_complete(self) -> None:
        if self.conn.ends:
            self.linger()
            return
        super().on_response_complete()
        if self.transport.is_closing():
            self.writing.start(self.timeout_s, self.transport.abort)
            return
        if self._is_answered():  # else the next request has begun, which was there already
            self.limit.wait(self.transport)
        if not self._begins():  # else uvicorn's keep-alive watches
            self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.writing.start(self.timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.writing.stop()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():  # closing would wait for a client that does not read
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        """For uvicorn, where h11 has raised."""
        error = sys.exception()
        if getattr(error, "error_status_hint", 0) == 431:
            self.refuse(HeadersTooLarge(self.max_header_bytes, MAX_HEADERS))
        else:
            self.refuse(MalformedRequest(shortened(str(error or msg))))

    def refuse(self, problem: Problem) -> None:
        """Answers what is no request that the application could see, and closes the connection."""
        path = "/"
        if not self._is_answered():  # what is wrong is a body
            if self.cycle.response_started:
                self.transport.abort()
                return
            path = self.cycle.scope["path"]
            self.cycle.disconnected = True
            self.cycle.waiting_for_100_continue = False  # else it would ask for more of the body
            self.cycle.message_event.set()
        response = answer(problem, path, self.metrics)
        lines = [f"HTTP/1.1 {problem.status.value} {problem.status.phrase}".encode(), b"connection: close"]
        lines += [name + b": " + value for name, value in response.raw_headers]
        self.transport.write(b"\r\n".join([*lines, b"", bytes(response.body)]))
        self.linger()

    def linger(self) -> None:
        """Closes the connection's own half, and the rest when the client does or in a while (RFC 9112, section 9.6)."""
        self.lingering = True
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        self.transport.write_eof()
        self.reading.start(LINGER_S, self.transport.abort)
        self.limit.wait(self.transport)

    def _should_upgrade(self) -> bool:
        return False  # an offer that need not be taken (RFC 9110, section 7.8): the request is served as it is

    def _is_answered(self) -> bool:
        """Whether no request is being worked on."""
        return self.cycle is None or self.cycle.response_complete

    def _begins(self) -> bool:
        """Whether what comes next is the first of a request."""
        return self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]

    def _watch(self) -> None:
        """Sees to it that the client does not take too long; while the server does, it may."""
        if self.conn.their_state is h11.IDLE:
            self.reading.start(self.timeout_s, self._expire)
        else:
            self.reading.stop()
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self.limit.work(self.transport)

    def _expire(self) -> None:
        if self._begins() or self.transport in self.limit.surplus:
            self.transport.abort()
        else:
            self.refuse(RequestTimeout(self.timeout_s))
