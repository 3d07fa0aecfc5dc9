"""Work that may hang, with a time limit: on threads that can be left behind, and that let the process end."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import structlog

log = structlog.get_logger()
LOADING = "loading "  # begins the name of each thread that may be in a runtime's own code
T = TypeVar("T")


class TimeLimitError(Exception):
    """The work was not done in time; the message says after how long."""


def start(work: Callable[[], T], name: str) -> "Future[T]":
    """Runs the work on a daemon thread."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


class TimeLimit:
    """Python cannot end a thread. One that takes too long is left behind: counted, and not doubled while it hangs."""

    def __init__(self, abandoned: Callable[[], object]) -> None:
        self._abandoned = abandoned  # called for each
        self._left_behind: dict[str, Future[Any]] = {}  # by what they work on

    def run(self, name: str, seconds: float, work: Callable[[], T]) -> T:
        """The work's result. Raises TimeLimitError, or what the work raises."""
        before = self._left_behind.get(name)
        if before is not None and not before.done():
            raise TimeLimitError("an earlier attempt still hangs")
        future = start(work, LOADING + name)
        try:
            result = future.result(seconds)
        except TimeoutError:
            if future.done():  # the work's own
                raise
            self._left_behind[name] = future
            self._abandoned()
            log.error("loading left behind", work=name, seconds=seconds)
            raise TimeLimitError(f"it takes longer than {seconds:g} s (--load-s)") from None
        self._left_behind.pop(name, None)
        return result
