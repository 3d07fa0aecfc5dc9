"""Data sets for the tests: files written into a folder or a zip, and what an error about one says."""

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from models.data import load
from models.failures import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, size=(6, 5, 4), dtype=np.uint8)
LABELS = np.array([2, 0, 1, 1, 0, 2], dtype=np.uint8)

Store = Callable[[dict[str, bytes]], Path]


def idx(array: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def encoded(pixels: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        load(path, "train")
    return str(caught.value)


def flipped(content: bytes) -> bytes:
    """With the bits of a byte in the middle turned over."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


CATS, DOGS = IMAGES[:2], IMAGES[2:4]
PETS = {
    "train/dog/a.png": encoded(DOGS[0]),
    "train/cat/b.png": encoded(CATS[0]),
    "train/cat/c.BMP": encoded(CATS[1], "BMP"),
    "test/dog/a.png": encoded(DOGS[1]),
}
