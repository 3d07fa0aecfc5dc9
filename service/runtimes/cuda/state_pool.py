"""States that stay on a device: a pool of places for them, and what the engine holds in an array's stead."""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

from service.runtimes.cuda.driver import Address, Driver, DriverError

NUMBER = 4  # bytes of a float32
ZERO, SINK = 0, 1  # places that are nobody's: one whose numbers are all 0, and one that takes what nobody wants


class State:
    """A row's x or x0, float32 at a place of the pool; written once, and given back when nobody holds it any more.

    The engine may drop it while the device still reads it: what is put there next comes later in the same stream.
    """

    __slots__ = ("_free", "finite", "place")

    def __init__(self, place: int, free: deque[int]) -> None:
        self.place = place
        self.finite = True  # unless it turned out otherwise
        self._free = free

    def __del__(self) -> None:
        self._free.append(self.place)  # atomic: a job's last holder may be another thread


class Pool:
    """Device memory for `places` states. Raises DriverError if the device has not so much."""

    def __init__(self, driver: Driver, shape: tuple[int, ...], places: int) -> None:
        self.shape = shape
        self.floats = math.prod(shape)
        self.row_bytes = NUMBER * self.floats
        self.address = driver.allocate((places + 2) * self.row_bytes)
        self._free = deque(range(SINK + 1, places + 2))

    def take(self) -> State:
        """A place, whatever is in it. Raises DriverError if none is free."""
        try:
            return State(self._free.popleft(), self._free)
        except IndexError:
            raise DriverError("every place for a state on the device is taken") from None

    def at(self, state: State) -> Address:
        return self.address + state.place * self.row_bytes


class Rows(Sequence[State]):
    """States where an array (n, C, H, W) would be: indexed in its first axis alone."""

    def __init__(self, states: Iterable[State], shape: tuple[int, ...]) -> None:
        self._states = list(states)
        self.shape = (len(self._states), *shape)

    def __len__(self) -> int:
        return len(self._states)

    def __iter__(self) -> Iterator[State]:
        return iter(self._states)

    @overload
    def __getitem__(self, index: int) -> State: ...
    @overload
    def __getitem__(self, index: slice | list[int]) -> "Rows": ...
    def __getitem__(self, index: int | slice | list[int]) -> "State | Rows":
        if isinstance(index, int):
            return self._states[index]
        chosen = self._states[index] if isinstance(index, slice) else [self._states[row] for row in index]
        return Rows(chosen, self.shape[1:])
