"""Reads training images: a folder of idx files, a folder of images, or a zip of one."""

import hashlib
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models import idx, image_files, pixels
from models.failures import DataError
from models.image_files import File
from models.memory import check_fits

Split = Literal["train", "test"]
SHOWN_CLASSES = 20  # of which the names are in the line about a data set
IDX_PREFIX = {"train": "train", "test": "t10k"}


@dataclass(frozen=True)
class Dataset:
    """`images` uint8 (n, C, H, W), `labels` int64 (n,), the name of each class, and how many files were left out."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: list[str]
    left_out: dict[str, int] = field(default_factory=dict)  # by why

    @property
    def digest(self) -> str:
        """SHA-256 over shape, images and labels."""
        digest = hashlib.sha256(repr(self.images.shape).encode())
        digest.update(self.images.tobytes())
        digest.update(self.labels.tobytes())
        return digest.hexdigest()

    def __str__(self) -> str:
        """One line: how many images of which size and classes, and what was left out."""
        n, channels, height, width = self.images.shape
        names = ", ".join(self.classes[:SHOWN_CLASSES]) + (", …" if len(self.classes) > SHOWN_CLASSES else "")
        parts = [
            f"images: {n:,} of {height}×{width}, {'grey' if channels == 1 else 'colour'}",
            f"classes: {len(self.classes):,} ({names})",
            *([image_files.counts(self.left_out)] if self.left_out else []),
        ]
        return "; ".join(parts)


def load(path: Path, split: Split) -> Dataset:
    """One split of the data set at `path`.

    - a folder of the idx files of MNIST (`train-images-idx3-ubyte`, `t10k-…`), plain or gzipped;
    - a folder of images `SPLIT/CLASS/…/NAME.png`, of any kind in `pixels.SUFFIXES`, or a zip of it. A class is called
      after its folder, and folders of numbers are in the order of the numbers. Files below a class's folder are of that
      class. Where any image is in colour, all are.

    Raises DataError if there is nothing there that can be read so.
    """
    if path.is_dir():
        return _from_idx(path, split) if any(path.glob("*-idx?-ubyte*")) else _from_folder(path, split)
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise DataError(f"{path}: no such folder, and not a zip file")
    try:
        with zipfile.ZipFile(path) as archive:
            return _from_images(path, split, image_files.in_zip(path, archive))
    except zipfile.BadZipFile as error:
        raise DataError(f"{path}: {error}") from error


def load_both(path: Path) -> tuple[Dataset, Dataset]:
    """The training and the test split, both in colour if one of them is. Raises DataError."""
    splits = load(path, "train"), load(path, "test")
    channels = max(split.images.shape[1] for split in splits)
    train, test = (
        replace(split, images=np.repeat(split.images, channels // split.images.shape[1], axis=1)) for split in splits
    )
    return train, test


def to_model(images: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """uint8 (n, C, h, w) → float32 in [−1, 1], padded with −1 (black) around the image to (n, C, size, size)."""
    n, channels, height, width = images.shape
    if max(height, width) > size:
        raise DataError(f"images are {height}×{width}, larger than the model's {size}×{size}")
    check_fits(4 * n * channels * size**2, f"{n:,} images of {size}×{size}")
    top, left = (size - height) // 2, (size - width) // 2
    padding = ((0, 0), (0, 0), (top, size - height - top), (left, size - width - left))
    return np.pad(images.astype(np.float32) / 127.5 - 1, padding, constant_values=-1.0)


def _from_idx(folder: Path, split: Split) -> Dataset:
    prefix = IDX_PREFIX[split]
    images = idx.read(folder, f"{prefix}-images-idx3-ubyte", dimensions=3)
    labels = idx.read(folder, f"{prefix}-labels-idx1-ubyte", dimensions=1)
    if not len(images):
        raise DataError(f"{folder}: no images in split {split!r}")
    if len(images) != len(labels):
        raise DataError(f"{folder}: {len(images)} images but {len(labels)} labels in split {split!r}")
    return Dataset(images[:, None], labels.astype(np.int64), [str(i) for i in range(int(labels.max()) + 1)])


def _from_folder(folder: Path, split: Split) -> Dataset:
    return _from_images(folder, split, image_files.in_folder(folder))


def _from_images(source: Path, split: Split, files: list[File]) -> Dataset:
    selection = image_files.select(source, split, files)
    number = {name: i for i, name in enumerate(selection.classes)}
    labels = np.array([number[file.class_name] for file in selection.files], dtype=np.int64)
    return Dataset(_stack(selection.files), labels, selection.classes, selection.left_out)


def _stack(files: list[File]) -> NDArray[np.uint8]:
    """The files' pixels (n, C, H, W), which must all be of one height and width."""
    images: list[NDArray[np.uint8]] = []
    for file in files:
        try:
            image = pixels.read(file.read())
        except DataError:
            raise
        except Exception as error:  # Pillow's decoders raise nearly anything for a damaged file
            raise DataError(f"{file.name}: not a readable image ({error})") from error
        if not images:
            check_fits(len(files) * image.nbytes, f"{len(files):,} images like {file.name}")
        elif image.shape[:2] != images[0].shape[:2]:
            (height, width), first = image.shape[:2], images[0].shape[:2]
            raise DataError(
                f"{file.name}: {height}×{width} pixels, but the images before it have {first[0]}×{first[1]}: "
                "all are to be of one size"
            )
        images.append(image)
    channels = 3 if any(image.ndim == 3 for image in images) else 1
    stacked = np.empty((len(images), channels, *images[0].shape[:2]), dtype=np.uint8)
    for place, image in zip(stacked, images, strict=True):
        place[:] = image if image.ndim == 2 else image.transpose(2, 0, 1)
    return stacked
