"""Structured logs on stderr, uvicorn's included: one line for each event, with the request id if there is one."""

import logging
import os
import select
from contextlib import suppress

import structlog
from asgi_correlation_id import correlation_id
from structlog.typing import EventDict, Processor, WrappedLogger

from service.settings import Settings

STDERR = 2


class PatientHandler(logging.Handler):
    """Writes each line to stderr, unless that would wait for its reader: who reads no more stops no event loop.

    Lines that are lost are counted, and the first that can be written again says how many.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lost = 0
        self._cut = False  # the line before has no end
        self._room = select.poll()
        self._room.register(STDERR, select.POLLOUT)

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):  # the reader is gone, or the disk is full
            if self._lost:
                text = f"{self._lost} lines of the log are lost: nobody read them"
                if self._write(self.format(logging.makeLogRecord({"msg": text, "levelname": "WARNING"}))):
                    self._lost = 0
            if self._lost or not self._write(self.format(record)):
                self._lost += 1

    def _write(self, line: str) -> bool:
        """Whether there was room for all of it."""
        rest = b"\n" * self._cut + line.encode(errors="backslashreplace") + b"\n"
        begun = False
        while rest and any(events & select.POLLOUT for _, events in self._room.poll(0)):
            rest = rest[os.write(STDERR, rest[: select.PIPE_BUF]) :]  # for so many bytes there is room, or for none
            begun = True
        self._cut = bool(rest) and (begun or self._cut)
        return not rest


def configure(settings: Settings) -> None:
    """Routes structlog and the standard library's logging through the same renderer."""
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_request_id,
        structlog.processors.format_exc_info,
    ]
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=os.isatty(STDERR))
    )
    escape = [] if settings.log_format == "json" else [_escape]  # JSON does it itself
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = PatientHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *escape, renderer],
        )
    )
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)


def _escape(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    r"""Writes what does not print as \x1b or \n, so that no caller's text moves the cursor or makes a line of its own.

    The lines of a traceback stay lines, indented. What is not a string is shown by `repr`, which does the same.
    """
    for name, value in event.items():
        if name == "exception":
            event[name] = "\n".join(f"  {printable(line)}" for line in value.split("\n"))
        elif isinstance(value, str):
            event[name] = printable(value)
    return event


def printable(text: str) -> str:
    r"""What does not print as \x1b or \n."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _add_request_id(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    if request_id := correlation_id.get():
        event["request_id"] = request_id
    return event
