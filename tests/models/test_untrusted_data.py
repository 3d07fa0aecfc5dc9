"""Images that are damaged, far too large, of no use or meant to harm are refused by name, or left out."""

import os
import re
import stat
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from models import image_files, pixels
from models.data import load, to_model
from models.failures import DataError
from tests.models.data_files import CATS, PETS, Store, encoded, flipped, refusal, write, write_zip


@pytest.mark.parametrize("suffix", [".heic", ".eps", ".SVG", ".wmf"])
def test_an_image_of_a_kind_that_cannot_be_read_is_refused_by_name(store: Store, suffix: str) -> None:
    message = refusal(store({**PETS, f"train/cat/photo{suffix}": b"?"}))
    assert message.endswith(f"train/cat/photo{suffix}: images of this kind cannot be read: save it as PNG or JPEG")


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


def test_an_image_of_another_size_is_refused_by_name(store: Store) -> None:
    message = refusal(store({**PETS, "train/cat/d.png": encoded(np.zeros((5, 6), np.uint8))}))
    assert message.endswith("train/cat/d.png: 5×6 pixels, but the images before it have 5×4: all are to be of one size")


@pytest.mark.parametrize("bomb", ["one image", "one file", "all images"])
def test_a_bomb_is_refused_before_it_is_unpacked(store: Store, monkeypatch: pytest.MonkeyPatch, bomb: str) -> None:
    if bomb == "one image":
        monkeypatch.setattr(pixels, "MAX_PIXELS", 19)
    elif bomb == "one file":
        monkeypatch.setattr(image_files, "MAX_FILE_BYTES", 60)
    else:
        monkeypatch.setattr(os, "sysconf", lambda _: 7)  # a machine of 49 bytes
    message = refusal(store(PETS))
    assert re.search(r"train/cat/b\.png.*(more than (19|60): make it smaller|GB of memory)", message)


def test_a_folder_or_zip_without_images_of_the_split_is_refused(store: Store) -> None:
    path = store({"test/cat/a.png": encoded(CATS[0]), "train/cat/notes.txt": b"?"})
    assert refusal(path) == f"{path}: no idx files, and no images as train/CLASS/NAME.png (left out: 1 .txt)"


# --- links, devices and zips that mean harm ------------------------------------------------------------------------


def test_links_are_followed_but_not_round_in_circles(tmp_path: Path) -> None:
    folder, elsewhere = write(tmp_path / "pets", PETS), write(tmp_path / "birds", {"a.png": encoded(CATS[0])})
    (folder / "train" / "bird").symlink_to(elsewhere)
    (folder / "train" / "cat" / "up").symlink_to(folder / "train")
    (folder / "train" / "cat" / "side").symlink_to(folder / "train" / "dog")
    (folder / "train" / "dog" / "side").symlink_to(folder / "train" / "cat")
    dataset = load(folder, "train")
    assert dataset.classes == ["bird", "cat", "dog"]
    assert len(dataset.images) >= 4


def test_folders_whose_links_lead_to_each_other_are_refused_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_files, "MAX_LINKS", 500)  # of 12 folders there are a thousand million ways
    folder = write(tmp_path, PETS) / "train"
    names = [f"class{number}" for number in range(12)]
    for name in names:
        (folder / name).mkdir()
        for other in names:
            (folder / name / other).symlink_to(folder / other)
    assert refusal(tmp_path).endswith("more than 500 links to folders: they lead to each other")


def test_folders_that_lie_too_deep_in_each_other_are_refused(tmp_path: Path) -> None:
    (write(tmp_path, PETS) / "train" / "cat" / "/".join("d" * 400)).mkdir(parents=True)
    most = sys.getrecursionlimit()
    sys.setrecursionlimit(400)
    try:
        assert refusal(tmp_path).endswith("its folders lie too deep in each other")
    finally:
        sys.setrecursionlimit(most)


@pytest.mark.parametrize("name", ["data.zip", "train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"])
def test_a_fifo_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    assert "file" in refusal(tmp_path / name if name == "data.zip" else tmp_path)


def test_what_is_no_regular_file_is_left_out_and_not_waited_for(tmp_path: Path) -> None:
    folder = write(tmp_path, PETS)
    os.mkfifo(folder / "train" / "cat" / "pipe.png")
    (folder / "train" / "cat" / "zero.png").symlink_to("/dev/zero")
    (folder / "train" / "cat" / "gone.png").symlink_to("nowhere")
    dataset = load(folder, "train")
    assert (len(dataset.images), dataset.left_out) == (3, {"links or devices": 3})


@pytest.mark.parametrize("name", ["../../train/cat/x.png", "/train/cat/x.png", "train/../../cat/x.png"])
def test_a_zip_with_a_path_that_leads_out_of_it_is_refused(tmp_path: Path, name: str) -> None:
    path = write_zip(tmp_path / "pets.zip", {**PETS, name: PETS["train/cat/b.png"]})
    assert refusal(path) == f"{path}:{name}: a path that leads out of the archive: it is not to be trusted"


def test_a_link_in_a_zip_is_left_out(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "pets.zip", PETS)
    link = zipfile.ZipInfo("train/cat/link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    dataset = load(path, "train")
    assert (len(dataset.images), dataset.left_out) == (3, {"links or devices": 1})


def test_of_two_members_of_one_name_the_later_counts(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "pets.zip", PETS)
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("train/dog/a.png", encoded(CATS[1]))
    assert np.array_equal(load(path, "train").images[2, 0], CATS[1])


def test_a_zip_of_windows_paths_is_read(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "pets.zip", {name.replace("/", "\\"): content for name, content in PETS.items()})
    assert load(path, "train").classes == ["cat", "dog"]


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_zip_of_a_folder_that_is_called_like_a_split_is_read(tmp_path: Path, split: str) -> None:
    path = write_zip(tmp_path / "pets.zip", {f"{split}/{name}": content for name, content in PETS.items()})
    assert load(path, "train").labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize("damage", [lambda content: content[:-40] + content[-22:], lambda content: content[40:]])
def test_a_damaged_zip_is_refused_by_name(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = write_zip(tmp_path / "pets.zip", PETS)
    path.write_bytes(damage(path.read_bytes()))
    assert refusal(path).startswith(f"{path}")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path}: no idx files, and no images as train/CLASS/NAME.png"


@pytest.mark.parametrize("name", ["nothing", "file.tar"])
def test_a_path_to_neither_a_folder_nor_a_zip_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file.tar").write_bytes(b"something else")
    assert refusal(tmp_path / name) == f"{tmp_path / name}: no such folder, and not a zip file"


def test_images_that_the_memory_cannot_hold_as_floats_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", lambda _: 16)  # a machine of 256 bytes
    to_model(np.zeros((1, 1, 8, 8), np.uint8), 8)
    with pytest.raises(DataError, match=r"2 images of 8×8 take .* GB of memory"):
        to_model(np.zeros((2, 1, 8, 8), np.uint8), 8)
