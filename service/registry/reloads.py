"""Reloads, one after the other, in a thread of their own: those who ask while one runs share the next."""

import threading
from collections.abc import Callable
from concurrent.futures import Future

import structlog

log = structlog.get_logger()


class Reloads:
    """The thread begins with the first request. It is a daemon, so that the process can end while a reload hangs.

    Between reloads it looks every `every_s` seconds whether one is due; 0: never.
    """

    def __init__(self, reload: Callable[[], None], is_due: Callable[[], bool], every_s: float) -> None:
        self._reload = reload
        self._is_due = is_due
        self._every_s = every_s
        self._next: Future[None] | None = None
        self._ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="reload", daemon=True)

    def request(self) -> "Future[None]":
        """Of the next reload that begins from now on. It raises what the reload raises, and cannot be cancelled."""
        with self._changed:
            if self._thread.ident is None:
                self._thread.start()
            if self._next is None:
                self._next = Future()
                self._next.set_running_or_notify_cancel()
                self._changed.notify()
            return self._next

    def end(self, within_s: float) -> None:
        """Ends the thread after the reload that it is in; waits for that so long at most."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(within_s)

    def _run(self) -> None:
        while not self._ended:
            with self._changed:
                if self._next is None and not self._ended:
                    self._changed.wait(self._every_s or None)
                future, self._next = self._next, None
            if future is not None:
                self._run_for(future)
            elif self._every_s and not self._ended and self._is_due():
                self.request()

    def _run_for(self, future: "Future[None]") -> None:
        try:
            self._reload()
        except Exception as error:  # what is served goes on
            log.error("reloading failed", exc_info=error)
            future.set_exception(error)
        else:
            future.set_result(None)
