"""Tries many bundles beside each other: none waits for one that hangs."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

from service.engine.placement import Placement
from service.registry.time_limit import start

GRACE_S = 5.0  # how long the first group may take: then the models in it are opened, and others follow


@dataclass(frozen=True)
class Attempt:
    """What came of a bundle's folder: a model that can be opened, or why not."""

    folder: str
    model: Placement | None
    reason: str = ""


def in_groups(
    folders: Sequence[Path], attempt: Callable[[Path], Attempt], at_a_time: int
) -> Iterator[list[Attempt]]:
    """The attempts: first those that end within GRACE_S, as one group, then each of the others when it ends.

    A group is opened while nothing else runs, as long as nothing is slow: opening measures times.
    """
    waiting: SimpleQueue[Path] = SimpleQueue()
    ended: SimpleQueue[Attempt] = SimpleQueue()
    for folder in folders:
        waiting.put(folder)

    def work() -> None:
        while True:
            try:
                folder = waiting.get_nowait()
            except Empty:
                return
            ended.put(attempt(folder))

    for number in range(min(at_a_time, len(folders))):
        start(work, f"trying {number}")
    first: list[Attempt] = []
    ends_at = time.monotonic() + GRACE_S
    while len(first) < len(folders):
        try:
            first.append(ended.get(timeout=max(ends_at - time.monotonic(), 0)))
        except Empty:
            break
    yield first
    for _ in range(len(folders) - len(first)):
        yield [ended.get()]
