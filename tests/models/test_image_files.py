"""Images in a folder or a zip come back as they were, of their folder's class; all else is left out and counted."""

import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.data import load
from models.image_files import natural_order
from tests.models.data_files import CATS, DOGS, PETS, Store, encoded, refusal


def test_images_are_read_as_they_were_written_with_their_folder_as_class(store: Store) -> None:
    dataset = load(store(PETS), "train")
    assert dataset.classes == ["cat", "dog"]
    assert dataset.labels.dtype == np.int64
    assert dataset.labels.tolist() == [0, 0, 1]
    assert np.array_equal(dataset.images, np.stack([CATS[0], CATS[1], DOGS[0]])[:, None])


def test_a_class_has_the_same_label_in_both_splits_though_one_lacks_a_class(store: Store) -> None:
    test = load(store(PETS), "test")
    assert test.classes == ["cat", "dog"]
    assert test.labels.tolist() == [1]
    assert np.array_equal(test.images, DOGS[1:, None])


def test_colour_images_become_three_channels_first(store: Store) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, size=(5, 4, 3), dtype=np.uint8)
    dataset = load(store({"train/x/a.png": encoded(pixels)}), "train")
    assert np.array_equal(dataset.images, pixels.transpose(2, 0, 1)[None])


def test_what_is_no_image_is_left_out_and_counted(store: Store) -> None:
    others = {
        "train/cat/notes.txt": b"?",
        "train/dog/more.TXT": b"?",
        "train/cat/Makefile": b"?",
        "train/README.png": b"",
        "test/cat/of-another-split.csv": b"",
    }
    dataset = load(store({**PETS, **others}), "train")
    assert len(dataset.images) == 3
    assert dataset.left_out == {".txt": 2, "without a suffix that is known": 1, "in no class's folder": 1}
    assert str(dataset) == (
        "images: 3 of 5×4, grey; classes: 2 (cat, dog); left out: 2 .txt, 1 in no class's folder, "
        "1 without a suffix that is known"
    )


LITTER = [
    ".DS_Store",
    "._b.png",
    ".directory/x.png",
    ".ipynb_checkpoints/b-checkpoint.png",
    "@eaDir/b.png/SYNOPHOTO_THUMB_M.jpg",
    "#recycle/b.png",
    "__MACOSX/._b.png",
    "__MACOSX/b.png",
    "Thumbs.db",
    "thumbs.db",
    "desktop.ini",
    "Icon\r",
    "ehthumbs.db",
    "~$b.png",
    ".nfs000000000001.png",
    ".b.png.swp",
]


@pytest.mark.parametrize("place", ["train/cat", "train"])
def test_what_operating_systems_leave_in_folders_is_no_image_and_no_class(store: Store, place: str) -> None:
    path = store({**PETS, **{f"{place}/{name}": PETS["train/cat/b.png"] for name in LITTER}})
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("__MACOSX/pets/train/cat/._b.png", b"macOS")
    dataset = load(path, "train")
    assert len(dataset.images) == 3
    assert dataset.classes == ["cat", "dog"]
    assert dataset.left_out == {"hidden or of the operating system": len(LITTER)}


def test_files_below_a_classs_folder_are_of_that_class(store: Store) -> None:
    deep = {"train/cat/deep/down/d.png": encoded(CATS[0]), "train/dog/test/e.png": encoded(CATS[0])}
    dataset = load(store({**PETS, **deep}), "train")
    assert dataset.classes == ["cat", "dog"]
    assert dataset.labels.tolist() == [0, 0, 0, 1, 1]
    assert dataset.left_out == {}


def test_every_kind_of_image_beside_the_others_is_read(store: Store) -> None:
    kinds = {"bmp": "BMP", "dib": "DIB", "gif": "GIF", "pcx": "PCX", "pgm": "PPM", "png": "PNG", "tga": "TGA"}
    kinds |= {"tif": "TIFF", "TIFF": "TIFF", "jp2": "JPEG2000", "sgi": "SGI", "dds": "DDS", "ico": "ICO"}
    grey = np.full((16, 16), 77, np.uint8)
    dataset = load(store({f"train/x/1.{suffix}": encoded(grey, kind) for suffix, kind in kinds.items()}), "train")
    assert dataset.images.shape == (len(kinds), 3, 16, 16)  # GIF has no grey, so all are in colour
    assert (dataset.images == 77).all()


def test_where_one_image_is_in_colour_all_are(store: Store) -> None:
    colour = np.random.default_rng(1).integers(0, 256, size=(5, 4, 3), dtype=np.uint8)
    dataset = load(store({**PETS, "train/cat/d.png": encoded(colour)}), "train")
    assert dataset.images.shape == (4, 3, 5, 4)
    assert np.array_equal(dataset.images[2], colour.transpose(2, 0, 1))
    assert np.array_equal(dataset.images[0], np.stack([CATS[0]] * 3))


# --- classes -------------------------------------------------------------------------------------------------------


def test_classes_of_numbers_are_in_the_order_of_the_numbers(store: Store) -> None:
    names = [str(i) for i in range(1, 13)]
    dataset = load(store({f"train/{name}/a.png": encoded(CATS[0]) for name in names}), "train")
    assert dataset.classes == names
    assert sorted(dataset.labels.tolist()) == list(range(12))


@given(st.lists(st.text(st.sampled_from("ab.-_ 0123456789é"), min_size=1, max_size=8)))
def test_the_order_is_that_of_code_points_but_for_whole_numbers(names: list[str]) -> None:
    width = max((len(run) for name in names for run in re.findall("[0-9]+", name)), default=0)

    def padded(name: str) -> str:
        return re.sub("[0-9]+", lambda run: run[0].zfill(width), name)

    assert sorted(sorted(names), key=natural_order) == sorted(sorted(names), key=padded)


def test_a_composed_and_a_decomposed_name_are_one_class(store: Store) -> None:
    dataset = load(
        store({"train/caf\u00e9/a.png": encoded(CATS[0]), "train/cafe\u0301/b.png": encoded(CATS[1])}), "train"
    )
    assert dataset.classes == ["caf\u00e9"]


@pytest.mark.parametrize("name", ["two words", "日本", "🐈", "a,b", "50%", 'quo"te', "a" * 100])
def test_a_class_may_be_called_what_json_carries(store: Store, name: str) -> None:
    assert load(store({f"train/{name}/a.png": encoded(CATS[0])}), "train").classes == [name]


@pytest.mark.parametrize("name", ["line\nbreak", "tab\t", " led", "trailed ", "a" * 101, "\x1b[31m", "\u2028x"])
def test_a_class_that_no_request_could_name_is_refused(store: Store, name: str) -> None:
    assert "cannot be named in a request: rename the folder" in refusal(
        store({f"train/{name}/a.png": encoded(CATS[0])})
    )


def test_a_class_whose_name_is_not_text_is_refused(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/train/\xff"
    os.makedirs(folder)
    (Path(os.fsdecode(folder)) / "a.png").write_bytes(encoded(CATS[0]))
    assert "cannot be named in a request" in refusal(tmp_path)
