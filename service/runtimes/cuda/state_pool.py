"""States that stay on a device: a pool of places for them, and the handles that the engine holds."""

import math
from collections import deque
from collections.abc import Iterable, Sequence

from service.runtimes.cuda.driver import Address, Driver, DriverError

NUMBER = 4  # bytes of a float32
ZERO, DISCARD = 0, 1  # reserved places: one is all 0, and one takes results that are not used


class DeviceState:
    """A row's x or x0, float32 at a place of the pool. It is written once; dropping the object frees the place.

    The engine may drop it while the device still reads it, as the next write comes later in the same stream.
    """

    __slots__ = ("_free", "finite", "place")

    def __init__(self, place: int, free: deque[int]) -> None:
        self.place = place
        self.finite = True  # False once its magnitude was read and was not
        self._free = free

    def __del__(self) -> None:
        self._free.append(self.place)  # atomic, as the last holder may be another thread


class Pool:
    """Device memory for `places` states. Raises DriverError if the device has too little."""

    def __init__(self, driver: Driver, shape: tuple[int, ...], places: int) -> None:
        self.shape = shape
        self.floats = math.prod(shape)
        self.row_bytes = NUMBER * self.floats
        self.address = driver.allocate((places + 2) * self.row_bytes)
        self._free = deque(range(DISCARD + 1, places + 2))

    def take(self) -> DeviceState:
        """A free place, with arbitrary content. Raises DriverError if none is free."""
        try:
            return DeviceState(self._free.popleft(), self._free)
        except IndexError:
            raise DriverError("every place for a state on the device is taken") from None

    def at(self, state: DeviceState) -> Address:
        """The state's address."""
        return self.address + state.place * self.row_bytes


class DeviceStates:
    """The states of a batch's rows on the device."""

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
        """False if a state is known not to be finite; the device may still be computing them."""
        return all(state.finite for state in self._states)
