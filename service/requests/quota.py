"""Who calls, and how much work a minute they may ask for."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from service.errors import KeySpent


@dataclass(frozen=True)
class Caller:
    """Whose key a request came with; without a file of keys anybody may do anything."""

    name: str = ""
    admin: bool = True


class WorkBudget:
    """A token bucket of predicted seconds of the network. A request may overdraw it, so that a large one passes too.

    The bucket holds a minute's work at most.
    """

    def __init__(self, name: str, work_s_per_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.most_s = self.left_s = work_s_per_minute
        self.per_s = work_s_per_minute / 60
        self._clock = clock
        self._updated_s = clock()

    def charge(self, work_s: float) -> None:
        """Takes the work from what is left. Raises KeySpent if nothing is left."""
        now = self._clock()
        self.left_s = min(self.most_s, self.left_s + (now - self._updated_s) * self.per_s)
        self._updated_s = now
        if self.left_s <= 0:
            raise KeySpent(self.name, -self.left_s / self.per_s)
        self.left_s -= work_s

    def refund(self, work_s: float) -> None:
        """Gives back what came to nothing."""
        self.left_s = min(self.most_s, self.left_s + work_s)
