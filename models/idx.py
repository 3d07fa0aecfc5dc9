"""Reads the idx files of MNIST and its kin, plain or gzipped."""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from models.failures import DataError
from models.memory import check_fits

UINT8 = 0x08  # the type byte


def read(folder: Path, name: str, dimensions: int) -> NDArray[np.uint8]:
    """The array in `folder/name`, or else in `name.gz`.

    An idx file of bytes: 0, 0, type, number of dimensions, each dimension as a big-endian uint32, then the data. No
    more is unpacked than its header claims. Raises DataError with the file's name.
    """
    plain, packed = folder / name, folder / f"{name}.gz"
    path = packed if packed.exists() else plain
    if path.exists() and not path.is_file():  # a FIFO would keep it waiting for ever
        raise DataError(f"{path}: it is no regular file")
    try:
        with gzip.open(path) if path is packed else path.open("rb") as file:
            return _parse(cast(IO[bytes], file), path, dimensions)
    except FileNotFoundError:
        raise DataError(f"{plain}: no such file, nor {packed.name}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: {error}") from error


def _parse(file: IO[bytes], path: Path, dimensions: int) -> NDArray[np.uint8]:
    header = file.read(4 + 4 * dimensions)
    if len(header) < 4 + 4 * dimensions or tuple(header[:4]) != (0, 0, UINT8, dimensions):
        raise DataError(f"{path}: not an idx file of bytes with {dimensions} dimension(s)")
    shape = struct.unpack(f">{dimensions}I", header[4:])
    size = math.prod(shape)
    check_fits(size, f"{path}: its header says {shape}, which")
    content = file.read(size + 1)
    if len(content) != size:
        follow = f"more than {size}" if len(content) > size else len(content)
        raise DataError(f"{path}: its header says {shape}, but {follow} bytes follow")
    return np.frombuffer(content, np.uint8).reshape(shape)
