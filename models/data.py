"""Reads training images: a folder of idx files, a folder of images, or a zip of one."""

import gzip
import hashlib
import io
import struct
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

Split = Literal["train", "test"]
IDX_PREFIX = {"train": "train", "test": "t10k"}
IDX_UINT8 = 0x08
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


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
    except (gzip.BadGzipFile, EOFError) as error:
        raise DataError(f"{path}: {error}") from error
    header = 4 + 4 * dimensions
    if len(content) < header or tuple(content[:4]) != (0, 0, IDX_UINT8, dimensions):
        raise DataError(f"{path}: not an idx file of bytes with {dimensions} dimension(s)")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != np.prod(shape):
        raise DataError(f"{path}: its header says {shape}, but {len(content) - header} bytes follow")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _from_folder(folder: Path, split: Split) -> Dataset:
    paths = sorted((folder / split).glob("*/*")) if (folder / split).is_dir() else []
    return _from_images(folder, split, ((p.parent.name, str(p), p.read_bytes) for p in paths))


def _from_zip(path: Path, split: Split) -> Dataset:
    with zipfile.ZipFile(path) as archive:
        members = sorted(name for name in archive.namelist() if PurePosixPath(name).parts[-3:-2] == (split,))
        return _from_images(
            path, split, ((PurePosixPath(m).parent.name, f"{path}:{m}", lambda m=m: archive.read(m)) for m in members)
        )


def _from_images(source: Path, split: Split, files: Iterable[tuple[str, str, Callable[[], bytes]]]) -> Dataset:
    """A data set from (class, name, reader) of each file; files that are not images by their suffix are left out."""
    images, classes = [], []
    for label, name, read in files:
        if PurePosixPath(name).suffix.lower() not in IMAGE_SUFFIXES:
            continue
        try:
            with Image.open(io.BytesIO(read())) as image:
                pixels = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
        except (UnidentifiedImageError, OSError) as error:
            raise DataError(f"{name}: not a readable image ({error})") from error
        if images and pixels.shape != images[0].shape:
            raise DataError(f"{name}: shape {pixels.shape}, but the images before it have {images[0].shape}")
        images.append(pixels)
        classes.append(label)
    if not images:
        raise DataError(f"{source}: no idx files, and no images as {split}/CLASS/NAME.png")
    stacked = np.stack(images)
    channels_first = stacked[:, None] if stacked.ndim == 3 else stacked.transpose(0, 3, 1, 2)
    names, labels = np.unique(classes, return_inverse=True)
    return Dataset(np.ascontiguousarray(channels_first), labels.astype(np.int64), names.tolist())
