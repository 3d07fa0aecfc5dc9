"""States that stay on a device: a pool of places for them, and what the engine holds in an array's stead."""

import math
from collections import deque
from collections.abc import Iterable, Sequence

from service.runtimes.cuda.driver import Address, Driver, DriverError

NUMBER = 4  # bytes of a float32
ZERO, DISCARD = 0, 1  # places that are nobody's: one whose numbers are all 0, and one that takes what nobody wants


class DeviceState:
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
        self._free = deque(range(DISCARD + 1, places + 2))

    def take(self) -> DeviceState:
        """A place, whatever is in it. Raises DriverError if none is free."""
        try:
            return DeviceState(self._free.popleft(), self._free)
        except IndexError:
            raise DriverError("every place for a state on the device is taken") from None

    def at(self, state: DeviceState) -> Address:
        return self.address + state.place * self.row_bytes


class DeviceStates:
    """The states of a batch's rows, where a runtime of the host has an array (n, C, H, W)."""

    def __init__(self, states: Iterable[DeviceState], shape: tuple[int, ...]) -> None:
        self._states = list(states)
        self._shape = shape

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self._states), *self._shape)

    def __getitem__(self, row: int) -> DeviceState:
        return self._states[row]

    def select(self, rows: Sequence[int]) -> "DeviceStates":
        return DeviceStates([self._states[row] for row in rows], self._shape)

    def is_finite(self) -> bool:
        """Whether no state is known not to be: the device may still be computing them."""
        return all(state.finite for state in self._states)
