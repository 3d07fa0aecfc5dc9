"""Data sets that are written by the tests come back as they were; damaged ones are refused with the file's name."""

import gzip
import io
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from models.data import DataError, Dataset, load, to_model

IMAGES = np.random.default_rng(0).integers(0, 256, size=(6, 5, 4), dtype=np.uint8)
LABELS = np.array([2, 0, 1, 1, 0, 2], dtype=np.uint8)
TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


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
        (idx(IMAGES) + b"x", r"its header says \(6, 5, 4\), but 121 bytes follow"),
    ],
    ids=["empty", "a png", "labels", "floats", "cut short", "too long"],
)
def test_a_bad_idx_file_is_refused_by_name(mnist: Path, content: bytes, problem: str) -> None:
    path = mnist / TRAIN_IMAGES
    path.write_bytes(content)
    assert re.search(f"^{path}: {problem}", refusal(mnist))


def flipped(content: bytes) -> bytes:
    """With the bits of a byte in the middle turned over."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


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


# --- images in a folder or a zip -----------------------------------------------------------------------------------

CATS, DOGS = IMAGES[:2], IMAGES[2:4]
PETS = {
    "train/dog/a.png": encoded(DOGS[0]),
    "train/cat/b.png": encoded(CATS[0]),
    "train/cat/c.BMP": encoded(CATS[1], "BMP"),
    "test/dog/a.png": encoded(DOGS[1]),
}


@pytest.fixture(params=["folder", "zip", "zip of a folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[dict[str, bytes]], Path]:
    """Writes files where `load` finds them: in a folder, in a zip, or a folder down in a zip."""
    if request.param == "folder":
        return lambda files: write(tmp_path / "pets", files)
    prefix = "pets/" if request.param == "zip of a folder" else ""
    return lambda files: write_zip(tmp_path / "pets.zip", {prefix + name: content for name, content in files.items()})


Store = Callable[[dict[str, bytes]], Path]


def test_images_are_read_as_they_were_written_with_their_folder_as_class(store: Store) -> None:
    dataset = load(store(PETS), "train")
    assert dataset.classes == ["cat", "dog"]
    assert dataset.labels.dtype == np.int64
    assert dataset.labels.tolist() == [0, 0, 1]
    assert np.array_equal(dataset.images, np.stack([CATS[0], CATS[1], DOGS[0]])[:, None])


def test_a_class_has_the_same_label_in_the_test_split_though_another_class_is_missing_there(store: Store) -> None:
    test = load(store(PETS), "test")
    assert test.classes == ["cat", "dog"]
    assert test.labels.tolist() == [1]
    assert np.array_equal(test.images, DOGS[1:, None])


def test_colour_images_become_three_channels_first(store: Store) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, size=(5, 4, 3), dtype=np.uint8)
    dataset = load(store({"train/x/a.png": encoded(pixels)}), "train")
    assert np.array_equal(dataset.images, pixels.transpose(2, 0, 1)[None])


def test_files_that_are_not_images_and_hidden_ones_are_left_out(store: Store) -> None:
    others = {
        "train/cat/notes.txt": b"?",
        "train/cat/._b.png": b"macOS",
        "train/README.png": b"",
        "train/cat/deep/d.png": b"",
    }
    dataset = load(store({**PETS, **others}), "train")
    assert len(dataset.images) == 3
    assert dataset.classes == ["cat", "dog"]


@pytest.mark.parametrize(
    "content",
    [b"", b"no image", PETS["train/cat/b.png"][:-30], flipped(PETS["train/cat/b.png"]), PETS["train/cat/c.BMP"][:60]],
    ids=["empty", "text", "cut short", "damaged", "cut short bmp"],
)
def test_an_image_that_cannot_be_read_is_refused_by_name(store: Store, content: bytes) -> None:
    message = refusal(store({**PETS, "train/cat/d.png": content}))
    assert re.search(r"pets\b.*train/cat/d\.png: not a readable image", message)


def test_a_damaged_member_of_a_zip_is_refused_by_name(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "pets.zip", PETS)
    content = path.read_bytes()
    pixels = PETS["train/cat/b.png"]
    path.write_bytes(content.replace(pixels, flipped(pixels)))
    message = refusal(path)
    assert message.startswith(f"{path}:train/cat/b.png: not a readable image")
    assert "CRC" in message


@pytest.mark.parametrize("pixels", [np.zeros((5, 5), np.uint8), np.zeros((5, 4, 3), np.uint8)], ids=["size", "colour"])
def test_an_image_unlike_the_others_is_refused_by_name(store: Store, pixels: NDArray[np.uint8]) -> None:
    message = refusal(store({**PETS, "train/cat/d.png": encoded(pixels)}))
    assert re.search(r"train/cat/d\.png: shape \(5, .*, but the images before it have \(5, 4\)", message)


def test_a_folder_or_zip_without_images_of_the_split_is_refused(store: Store) -> None:
    path = store({"test/cat/a.png": encoded(CATS[0]), "train/cat/notes.txt": b"?"})
    assert refusal(path) == f"{path}: no idx files, and no images as train/CLASS/NAME.png"


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path}: no idx files, and no images as train/CLASS/NAME.png"


@pytest.mark.parametrize("name", ["nothing", "file.tar"])
def test_a_path_to_neither_a_folder_nor_a_zip_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file.tar").write_bytes(b"something else")
    assert refusal(tmp_path / name) == f"{tmp_path / name}: no such folder, and not a zip file"


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
