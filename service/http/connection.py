"""A connection: uvicorn runs its requests, here in turns with the others, and not for ever."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import FlowControl

from service.errors import Problem, RequestTimeout, Unavailable
from service.http.connection_limit import GRACE_S, ConnectionLimit
from service.http.parser import RequestParser
from service.http.problem_responses import answer
from service.http.refusal_log import RefusalLog
from service.requests.turns import Turns
from service.telemetry.metrics import Metrics
from service.telemetry.probes import PROBES

LINGER_S = 2.0  # after an answer to half a request: its client still sends, and closing at once would lose the answer
PROBE_LINES = tuple(f"{verb} {path} ".encode() for verb in ("GET", "HEAD") for path in PROBES)
HEALTH_LINES = tuple(line for line in PROBE_LINES if b"/metrics" not in line)  # which takes milliseconds


class Deadline:
    """A call that is made unless it is stopped before its time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.passed = False
        self._loop = loop
        self._call: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self, seconds: float, call: Callable[[], None]) -> None:
        """Goes on if the same call is waited for, or was made."""
        if call != self._call:
            self.stop()
            self._call, self._timer = call, self._loop.call_later(seconds, self._pass)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._call = self._timer = None
        self.passed = False

    def _pass(self) -> None:
        self.passed = True
        if self._call is not None:
            self._call()


class Inflow(FlowControl):
    """uvicorn reads on whenever a handler asks for more of a body; here not while there is something to parse."""

    held = False

    def hold(self) -> None:
        self.held = True
        self.pause_reading()

    def resume_reading(self) -> None:
        if not self.held:
            super().resume_reading()


class Connection(RequestParser):
    """For uvicorn's `Config(http=...)`. Its client may take `timeout_s` to send a head, or to read more of an answer.

    A body's time is the application's business.
    """

    def __init__(
        self,
        limit: ConnectionLimit,
        turns: Turns,
        refusals: RefusalLog,
        max_header_bytes: int,
        timeout_s: float,
        metrics: Metrics,
        **uvicorns: Any,
    ) -> None:
        super().__init__(max_header_bytes, **uvicorns)
        self.app = self._answer
        self.limit = limit
        self.turns = turns
        self.refusals = refusals
        self.timeout_s = timeout_s
        self.metrics = metrics
        self.app_state = dict(self.app_state)  # of each of its requests
        self.queued = False  # there is something to parse, in its turn
        self.urgent = False  # it is a probe's
        self.lingering = False  # what comes is thrown away
        self.reading = Deadline(self.loop)
        self.writing = Deadline(self.loop)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow: Inflow = Inflow(transport)
        self.limit.opened(transport)
        self.reading.start(GRACE_S if transport in self.limit.surplus else self.timeout_s, self._expire)

    def connection_lost(self, exc: Exception | None) -> None:
        self.reading.stop()
        self.writing.stop()
        self.limit.closed(self.transport)
        if self.cycle is not None:
            self.cycle.disconnected = True
        lost = super().connection_lost
        self.turns.take(lambda: lost(exc))  # a handler's end is work too, and a thousand may go at once

    def data_received(self, data: bytes) -> None:
        if self.lingering:
            self.flow.hold()
            self.turns.take(self._read_on)
            return
        if self.transport in self.limit.surplus and self._begins() and not data.startswith(PROBE_LINES):
            self.refuse(Unavailable("there are too many connections"))
            return
        self.urgent = self._begins() and data.startswith(HEALTH_LINES)
        self.app_state["arrived_s"] = time.perf_counter()
        self._unset_keepalive_if_required()
        self.received += data
        self._queue()

    def _queue(self) -> None:
        """What was received is parsed in its turn."""
        if not self.queued:
            self.queued = True
            self.turns.take(self._parse_in_turn, self.urgent)
        if self.queued:
            self.flow.hold()

    def _parse_in_turn(self) -> None:
        self.queued = False
        if self.lingering or self.transport.is_closing():
            return
        self._read_on()
        try:
            self.parse()
        except Problem as problem:
            self.refuse(problem)
            return
        if self.received and not self.is_answered():  # the next request, which waits for that
            self.flow.hold()
        self._watch()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application, for uvicorn. Its answer says how it is framed."""
        cycle = self.cycle
        until_close = False  # an answer's body, whose length an old client is not told

        async def send_framed(message: Message) -> None:
            nonlocal until_close
            if message["type"] == "http.response.body":
                if until_close:
                    cycle.expected_content_length = len(message.get("body", b"")) + message.get("more_body", False)
                await send(message)
                return
            self.ends = self.ends or cycle.more_body  # else a client would go on sending what nobody reads
            headers = list(message["headers"])
            if scope["http_version"] == "1.0" and not any(name.lower() == b"content-length" for name, _ in headers):
                until_close, cycle.chunked_encoding = True, False
            if self.ends:
                headers.append((b"connection", b"close"))
            await send({**message, "headers": headers})
            cycle.keep_alive = cycle.keep_alive or self.ends  # uvicorn would close at once, and the answer be lost

        await self.config.loaded_app(scope, receive, send_framed)

    def on_response_complete(self) -> None:
        if self.ends:
            self.linger()
            return
        super().on_response_complete()
        if self.transport.is_closing():
            self.writing.start(self.timeout_s, self.transport.abort)
            return
        self.limit.wait(self.transport)
        if self.received:  # the next request was there already
            self._queue()

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

    def refuse(self, problem: Problem) -> None:
        """Answers what is no request that the application could see, and closes the connection."""
        path = "/"
        if not self.is_answered():  # what is wrong is a body
            if self.cycle.response_started:
                self.transport.abort()
                return
            path = self.cycle.scope["path"]
            self.cycle.disconnected = True
            self.cycle.waiting_for_100_continue = False  # else it would ask for more of the body
            self.cycle.message_event.set()
        self.refusals.note(problem, self.client)
        response = answer(problem, path, self.metrics)
        lines = [f"HTTP/1.1 {problem.status.value} {problem.status.phrase}".encode(), b"connection: close"]
        lines += [name + b": " + value for name, value in response.raw_headers]
        self.transport.write(b"\r\n".join([*lines, b"", bytes(response.body)]))
        self.linger()

    def linger(self) -> None:
        """Closes the connection's own half, and the rest when the client does or in a while (RFC 9112, section 9.6)."""
        if self.transport.is_closing():
            return
        self.lingering = True
        self._unset_keepalive_if_required()
        self._read_on()
        self.transport.write_eof()
        self.reading.start(LINGER_S, self.transport.abort)
        self.limit.wait(self.transport)

    def _read_on(self) -> None:
        self.flow.held = False
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def _begins(self) -> bool:
        """Whether what comes next is the first of a request."""
        return self.is_answered() and not self.received

    def _watch(self) -> None:
        """Sees to it that the client does not take too long; while the server does, it may.

        uvicorn watches over a connection between two requests, and the application over a body.
        """
        if self.is_answered() and self.received:
            self.reading.start(self.timeout_s, self._expire)
            if self.reading.passed:
                self._expire()
        else:
            self.reading.stop()
        if not self.is_answered() and not self.reading_body:
            self.limit.work(self.transport)

    def _expire(self) -> None:
        if self.queued:  # what came waits for the server, which looks at the time when it has parsed it
            return
        if self._begins() or self.transport in self.limit.surplus:
            self.transport.abort()
        else:
            self.refuse(RequestTimeout(self.timeout_s))
