"""The inputs of a step from the host, laid out in one block of memory: one copy uploads all of them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from service.runtimes.cuda.driver import Bytes

Views = dict[str, NDArray[np.generic]]

ALIGNMENT = 256  # of each field, as TensorRT requires


class Field(NamedTuple):
    """An array (rows, *shape)."""

    name: str
    dtype: DTypeLike
    shape: tuple[int, ...] = ()


class Arena:
    """The offset of each field for `rows` rows, and the size of all, in bytes."""

    def __init__(self, fields: Sequence[Field], rows: int) -> None:
        self.rows = rows
        self.fields = fields
        self.offsets: dict[str, int] = {}
        self.size = 0
        for field in fields:
            self.offsets[field.name] = self.size
            size = rows * math.prod(field.shape) * np.dtype(field.dtype).itemsize
            self.size += math.ceil(size / ALIGNMENT) * ALIGNMENT

    def views(self, memory: Bytes) -> Views:
        """The fields in `memory`, which has at least `size` bytes."""
        return {
            field.name: np.ndarray((self.rows, *field.shape), field.dtype, memory, self.offsets[field.name])
            for field in self.fields
        }
