"""Data sets that are written by the tests come back as they were; damaged ones are refused with the file's name."""

import gzip
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from models.data import Dataset, load, to_model
from models.failures import DataError
from tests.models.data_files import IMAGES, LABELS, flipped, idx, refusal, write

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """A folder of plain idx files, of a training split."""
    return write(tmp_path, {TRAIN_IMAGES: idx(IMAGES), TRAIN_LABELS: idx(LABELS)})


# --- idx -----------------------------------------------------------------------------------------------------------


def assert_is_the_sample(dataset: Dataset) -> None:
    assert dataset.images.dtype == np.uint8
    assert np.array_equal(dataset.images, IMAGES[:, None])
    assert dataset.labels.dtype == np.int64
    assert dataset.labels.tolist() == LABELS.tolist()
    assert dataset.classes == ["0", "1", "2"]


def test_plain_idx_files_are_read_as_they_were_written(mnist: Path) -> None:
    assert_is_the_sample(load(mnist, "train"))


def test_gzipped_idx_files_are_read_as_they_were_written(tmp_path: Path) -> None:
    files = {f"{TRAIN_IMAGES}.gz": gzip.compress(idx(IMAGES)), f"{TRAIN_LABELS}.gz": gzip.compress(idx(LABELS))}
    assert_is_the_sample(load(write(tmp_path, files), "train"))


def test_the_test_split_is_read_from_its_own_idx_files(mnist: Path) -> None:
    write(mnist, {"t10k-images-idx3-ubyte": idx(IMAGES[:2]), "t10k-labels-idx1-ubyte": idx(LABELS[:2])})
    test = load(mnist, "test")
    assert np.array_equal(test.images[:, 0], IMAGES[:2])
    assert test.labels.tolist() == LABELS[:2].tolist()
    assert_is_the_sample(load(mnist, "train"))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not an idx file of bytes with 3 dimension"),
        (b"\x89PNG and more than sixteen bytes", "not an idx file of bytes with 3 dimension"),
        (idx(LABELS) + bytes(20), "not an idx file of bytes with 3 dimension"),
        (struct.pack(">BBBB3I", 0, 0, 13, 3, 1, 1, 1) + bytes(4), "not an idx file of bytes with 3 dimension"),  # float
        (idx(IMAGES)[:-1], r"its header says \(6, 5, 4\), but 119 bytes follow"),
        (idx(IMAGES) + b"x", r"its header says \(6, 5, 4\), but more than 120 bytes follow"),
        (struct.pack(">BBBB3I", 0, 0, 8, 3, 2**31, 2**31, 9), r"its header says .* take .* GB of memory"),
    ],
    ids=["empty", "a png", "labels", "floats", "cut short", "too long", "a claim"],
)
def test_a_bad_idx_file_is_refused_by_name(mnist: Path, content: bytes, problem: str) -> None:
    path = mnist / TRAIN_IMAGES
    path.write_bytes(content)
    assert re.search(f"^{path}: {problem}", refusal(mnist))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda content: content[:-20], "ended before"),
        (lambda content: content[: len(content) // 2], "ended before"),
        (lambda content: b"not gzip" + content, "Not a gzipped file"),
        (flipped, ""),  # what notices depends on what the bits were
        (lambda content: content[:10] + b"\xff" + content[11:], "invalid block type"),  # the first byte past the header
    ],
    ids=["cut in the checksum", "cut in the data", "not gzip", "damaged", "not deflated"],
)
def test_a_damaged_gzip_is_refused_by_name(tmp_path: Path, damage: Callable[[bytes], bytes], problem: str) -> None:
    path = tmp_path / f"{TRAIN_IMAGES}.gz"
    # Text that repeats, so that the gzip has references that can be damaged.
    path.write_bytes(damage(gzip.compress(idx(np.tile(np.arange(80, dtype=np.uint8).reshape(10, 4, 2), (40, 1, 1))))))
    message = refusal(tmp_path)
    assert message.startswith(f"{path}: ")
    assert problem in message


def test_a_missing_labels_file_is_named(mnist: Path) -> None:
    (mnist / TRAIN_LABELS).unlink()
    assert refusal(mnist) == f"{mnist / TRAIN_LABELS}: no such file, nor {TRAIN_LABELS}.gz"


def test_more_images_than_labels_are_refused(mnist: Path) -> None:
    (mnist / TRAIN_LABELS).write_bytes(idx(LABELS[:4]))
    assert refusal(mnist) == f"{mnist}: 6 images but 4 labels in split 'train'"


def test_idx_files_without_images_are_refused(tmp_path: Path) -> None:
    write(tmp_path, {TRAIN_IMAGES: idx(IMAGES[:0]), TRAIN_LABELS: idx(LABELS[:0])})
    assert refusal(tmp_path) == f"{tmp_path}: no images in split 'train'"


# --- digest and to_model -------------------------------------------------------------------------------------------


def test_the_digest_is_of_the_content_and_not_of_how_it_is_stored(mnist: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    files = {f"{TRAIN_IMAGES}.gz": gzip.compress(idx(IMAGES)), f"{TRAIN_LABELS}.gz": gzip.compress(idx(LABELS))}
    assert load(mnist, "train").digest == load(write(packed, files), "train").digest


def test_the_digest_changes_with_a_pixel_a_label_the_order_and_the_shape() -> None:
    images, labels = IMAGES[:, None], LABELS.astype(np.int64)
    pixel, label = images.copy(), labels.copy()
    pixel[3, 0, 2, 1] ^= 1
    label[3] = 0
    digests = [
        Dataset(images, labels, []).digest,
        Dataset(pixel, labels, []).digest,
        Dataset(images, label, []).digest,
        Dataset(images[::-1], labels[::-1], []).digest,
        Dataset(images.reshape(6, 1, 4, 5), labels, []).digest,
    ]
    assert len(set(digests)) == len(digests)
    assert digests[0] == Dataset(images.copy(), labels.copy(), []).digest


def test_pixels_become_even_steps_from_minus_1_to_1() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    scaled = to_model(grey, 16)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled.ravel(), np.linspace(-1, 1, 256), rtol=0, atol=1e-7)
    assert (scaled.min(), scaled.max()) == (-1, 1)


@pytest.mark.parametrize(("height", "width"), [(5, 4), (4, 5), (8, 8), (8, 3), (1, 1)])
def test_images_are_padded_with_black_and_centred(height: int, width: int) -> None:
    images = np.random.default_rng(2).integers(1, 256, size=(2, 3, height, width), dtype=np.uint8)
    padded = to_model(images, 8)
    top, left = (8 - height) // 2, (8 - width) // 2
    inside = np.zeros((8, 8), dtype=bool)
    inside[top : top + height, left : left + width] = True
    assert padded.shape == (2, 3, 8, 8)
    assert (padded[:, :, ~inside] == -1).all()
    np.testing.assert_allclose((padded[:, :, inside] + 1) * 127.5, images.reshape(2, 3, -1), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(9, 8), (8, 9)])
def test_images_larger_than_the_model_are_refused(height: int, width: int) -> None:
    with pytest.raises(DataError, match=f"images are {height}×{width}, larger than the model's 8×8"):
        to_model(np.zeros((1, 1, height, width), np.uint8), 8)
