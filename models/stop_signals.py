"""Signals that ask a long command to stop, where it may finish what is under way first."""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """The signals that have asked to stop; what is under way is finished first, unless one comes again."""
    received: list[int] = []

    def receive(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, before[signal.Signals(number)])
        with contextlib.suppress(OSError):
            os.write(2, b"\nstopping after this batch; once more to stop at once\n")  # print is not reentrant

    before = {
        number: signal.signal(number, receive)
        for number in STOP_SIGNALS
        if signal.getsignal(number) is not signal.SIG_IGN  # as under nohup
    }
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
