"""The event loop's work on requests, a few pieces a turn.

Between two turns the loop reads from its sockets. Without this, what comes at once on n connections is one turn of n
times the cost of a request, and a probe that comes a moment later waits for all of it.
"""

import asyncio
from collections import deque
from collections.abc import Callable

PIECES = 8  # of a kind a turn; each takes a fraction of a millisecond, and the handler that it starts more


class Turns:
    """In each turn of the event loop so many pieces of urgent work, and of the rest; each kind in its order."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._urgent: deque[Callable[[], None]] = deque()
        self._left = PIECES  # that this turn may still do

    def take(self, work: Callable[[], None], urgent: bool = False) -> None:
        """Does the work now if this turn has not had enough, else in its turn."""
        if self._left == PIECES:
            asyncio.get_running_loop().call_soon(self._next)
        if not self._left:
            (self._urgent if urgent else self._waiting).append(work)
            return
        self._left -= 1
        work()

    def _next(self) -> None:
        self._left = PIECES
        if self._urgent or self._waiting:
            self._left = 0
            asyncio.get_running_loop().call_soon(self._next)
        for queue in (*[self._urgent] * PIECES, *[self._waiting] * PIECES):
            if queue:
                queue.popleft()()
