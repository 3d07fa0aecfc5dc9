"""Reloads, one after the other, in a thread of their own: those who ask while one runs share the next."""

import threading
from collections.abc import Callable
from concurrent.futures import Future


class Reloads:
    """The thread is a daemon, so that a reload that hangs does not keep the process from ending."""

    def __init__(self, reload: Callable[[], None]) -> None:
        self._reload = reload
        self._next: Future[None] | None = None
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="reload", daemon=True).start()

    def request(self) -> "Future[None]":
        """Of the next reload that begins from now on. It raises what the reload raises, and cannot be cancelled."""
        with self._changed:
            if self._next is None:
                self._next = Future()
                self._next.set_running_or_notify_cancel()
                self._changed.notify()
            return self._next

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._next is None:
                    self._changed.wait()
                future, self._next = self._next, None
            try:
                self._reload()
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(None)
