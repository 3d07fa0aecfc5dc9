"""Tries many bundles beside each other: none waits for one that hangs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

from service.engine.placement import Placement
from service.registry.time_limit import start

GRACE_S = 5.0  # without an attempt that ends: those at work are slow, and the others go on without them


@dataclass(frozen=True)
class Attempt:
    """What came of a bundle's folder: a model that can be opened, or why not."""

    folder: str
    model: Placement | None
    reason: str = ""


def in_groups(folders: Sequence[Path], attempt: Callable[[Path], Attempt], at_a_time: int) -> Iterator[list[Attempt]]:
    """The attempts: first all but the slow ones, as one group, then each slow one when it ends.

    Where slow ones take all of the threads, there are as many again, once. The first group is opened while nothing else
    runs, if nothing is slow: opening measures times.
    """
    waiting: SimpleQueue[Path] = SimpleQueue()
    ended: SimpleQueue[Attempt] = SimpleQueue()
    for folder in folders:
        waiting.put(folder)
    _start_threads(waiting, ended, attempt, at_a_time)
    first: list[Attempt] = []
    may_add = True
    while len(first) < len(folders):
        try:
            first.append(ended.get(timeout=GRACE_S))
        except Empty:
            if waiting.empty() or not may_add:
                break
            _start_threads(waiting, ended, attempt, at_a_time)
            may_add = False
    yield first
    for _ in range(len(folders) - len(first)):
        yield [ended.get()]


def _start_threads(
    waiting: "SimpleQueue[Path]", ended: "SimpleQueue[Attempt]", attempt: Callable[[Path], Attempt], count: int
) -> None:
    def work() -> None:
        with suppress(Empty):
            while True:
                ended.put(attempt(waiting.get_nowait()))

    for number in range(count):
        start(work, f"trying {number}")
