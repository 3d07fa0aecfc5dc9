"""Reads training images: a folder of idx files, a folder of images, or a zip of one."""

import gzip
import hashlib
import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath, PurePosixPath
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Split = Literal["train", "test"]
IDX_PREFIX = {"train": "train", "test": "t10k"}
IDX_UINT8 = 0x08
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
# What Pillow, zipfile and their decoders raise for damaged files.
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError, zipfile.BadZipFile, zlib.error)


class DataError(Exception):
    """The data at a path cannot be read as a data set; the message names the file and what is wrong with it."""


@dataclass(frozen=True)
class Dataset:
    """`images` uint8 (n, C, H, W), `labels` int64 (n,), and the name of each class."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: list[str]

    @property
    def digest(self) -> str:
        """SHA-256 over shape, images and labels."""
        digest = hashlib.sha256(repr(self.images.shape).encode())
        digest.update(self.images.tobytes())
        digest.update(self.labels.tobytes())
        return digest.hexdigest()


def load(path: Path, split: Split) -> Dataset:
    """One split of the data set at `path`.

    - a folder of the idx files of MNIST (`train-images-idx3-ubyte`, `t10k-…`), plain or gzipped;
    - a folder of images `SPLIT/CLASS/*.png` (or .jpg, .webp, .bmp), or a zip of it.

    Raises DataError if there is nothing there that can be read so.
    """
    if zipfile.is_zipfile(path):
        return _from_zip(path, split)
    if not path.is_dir():
        raise DataError(f"{path}: no such folder, and not a zip file")
    if any(path.glob("*-idx?-ubyte*")):
        return _from_idx(path, split)
    return _from_folder(path, split)


def to_model(images: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """uint8 (n, C, h, w) → float32 in [−1, 1], padded with −1 (black) around the image to (n, C, size, size)."""
    *_, height, width = images.shape
    if max(height, width) > size:
        raise DataError(f"images are {height}×{width}, larger than the model's {size}×{size}")
    top, left = (size - height) // 2, (size - width) // 2
    padding = ((0, 0), (0, 0), (top, size - height - top), (left, size - width - left))
    return np.pad(images.astype(np.float32) / 127.5 - 1, padding, constant_values=-1.0)


def _from_idx(folder: Path, split: Split) -> Dataset:
    prefix = IDX_PREFIX[split]
    images = _read_idx(folder, f"{prefix}-images-idx3-ubyte", dimensions=3)
    labels = _read_idx(folder, f"{prefix}-labels-idx1-ubyte", dimensions=1)
    if not len(images):
        raise DataError(f"{folder}: no images in split {split!r}")
    if len(images) != len(labels):
        raise DataError(f"{folder}: {len(images)} images but {len(labels)} labels in split {split!r}")
    return Dataset(images[:, None], labels.astype(np.int64), [str(i) for i in range(int(labels.max()) + 1)])


def _read_idx(folder: Path, name: str, dimensions: int) -> NDArray[np.uint8]:
    """An idx file of bytes: 0, 0, type, number of dimensions, each dimension as a big-endian uint32, then the data."""
    plain, packed = folder / name, folder / f"{name}.gz"
    path = packed if packed.exists() else plain
    try:
        content = gzip.decompress(path.read_bytes()) if path is packed else path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{plain}: no such file, nor {packed.name}") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: {error}") from error
    header = 4 + 4 * dimensions
    if len(content) < header or tuple(content[:4]) != (0, 0, IDX_UINT8, dimensions):
        raise DataError(f"{path}: not an idx file of bytes with {dimensions} dimension(s)")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != np.prod(shape):
        raise DataError(f"{path}: its header says {shape}, but {len(content) - header} bytes follow")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


class _File(NamedTuple):
    """A file `…/SPLIT/CLASS/NAME`, and what an error calls it."""

    path: PurePath
    name: str
    read: Callable[[], bytes]


def _from_folder(folder: Path, split: Split) -> Dataset:
    paths = sorted(path for name in IDX_PREFIX for path in (folder / name).glob("*/*"))
    return _from_images(folder, split, [_File(p, str(p), p.read_bytes) for p in paths])


def _from_zip(path: Path, split: Split) -> Dataset:
    with zipfile.ZipFile(path) as archive:
        members = sorted(name for name in archive.namelist() if PurePosixPath(name).parent.parent.name in IDX_PREFIX)
        files = [_File(PurePosixPath(m), f"{path}:{m}", partial(archive.read, m)) for m in members]
        return _from_images(path, split, files)


def _from_images(source: Path, split: Split, files: list[_File]) -> Dataset:
    """A data set from the files of both splits, so that a class that one of them lacks does not shift the labels.

    Files that are not images by their suffix are left out, and hidden ones: macOS puts a `._x.png` beside each `x.png`.
    """
    visible = [file for file in files if not file.path.name.startswith(".")]
    images = [file for file in visible if file.path.suffix.lower() in IMAGE_SUFFIXES]
    wanted = [file for file in images if file.path.parent.parent.name == split]
    if not wanted:
        raise DataError(f"{source}: no idx files, and no images as {split}/CLASS/NAME.png")
    stacked = np.stack(_read_images(wanted))
    channels_first = stacked[:, None] if stacked.ndim == 3 else stacked.transpose(0, 3, 1, 2)
    classes = sorted({file.path.parent.name for file in images})
    labels = np.array([classes.index(file.path.parent.name) for file in wanted], dtype=np.int64)
    return Dataset(np.ascontiguousarray(channels_first), labels, classes)


def _read_images(files: list[_File]) -> list[NDArray[np.uint8]]:
    """Pixels (h, w) of grey images, (h, w, 3) of others, all of one shape."""
    images: list[NDArray[np.uint8]] = []
    for file in files:
        try:
            with Image.open(io.BytesIO(file.read())) as image:
                pixels = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
        except UNREADABLE as error:
            raise DataError(f"{file.name}: not a readable image ({error})") from error
        if images and pixels.shape != images[0].shape:
            raise DataError(f"{file.name}: shape {pixels.shape}, but the images before it have {images[0].shape}")
        images.append(pixels)
    return images
