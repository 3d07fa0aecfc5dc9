"""What is measured is what is of the data set: methods of other images are left out by name, and never a crash."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bundle.loading import load_all
from evaluate.measure import choose, evaluate
from evaluate.options import Settings
from models import data
from models.data import Dataset
from models.failures import EvaluateError
from tests.conftest import write_bundle

TRAIN = Dataset(np.zeros((2, 1, 4, 4), np.uint8), np.array([0, 1]), ["zero", "one"])


@pytest.fixture
def bundles(tmp_path: Path) -> Path:
    """Bundles of these data, of other and of unknown data, of other images; and a damaged one."""
    folder = tmp_path / "bundles"
    of_these, of_others = ({"training": {"data_digest": digest}} for digest in (TRAIN.digest, "other"))
    write_bundle(folder / "mine", name="mine", checkpoint=of_these)
    write_bundle(folder / "imported", name="imported", classes=["one", "two", "zero"])
    write_bundle(folder / "others", name="others", checkpoint=of_others)
    write_bundle(folder / "colour", name="colour", shape=(3, 4, 4), state_shape=(3, 4, 4))
    write_bundle(folder / "small", name="small", shape=(1, 2, 4), state_shape=(1, 2, 4))
    write_bundle(folder / "classless", name="classless", classes=["zero"], checkpoint=of_these)
    write_bundle(folder / "damaged", name="damaged")
    (folder / "damaged" / "manifest.json").write_text("{")
    return folder


@pytest.fixture
def methods(bundles: Path) -> list[dict[str, Any]]:
    """The bundles as a service lists them."""
    return [
        {"method": name, "image_shape": list(bundle.manifest.shape), "classes": bundle.manifest.classes}
        for name, bundle in load_all(bundles)[0].items()
    ]


def settings(bundles: Path, *names: str) -> Settings:
    return Settings(data=Path("pets"), bundles=bundles, methods=list(names))


def test_without_names_only_methods_of_the_data_are_measured(
    bundles: Path, methods: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = choose(methods, settings(bundles), TRAIN)
    assert [method["method"] for method, _ in chosen] == ["imported", "mine"]
    assert [record.folder for _, record in chosen] == [bundles / name for name in ("imported", "mine")]
    assert sorted(capsys.readouterr().out.splitlines()) == [
        "classless: left out, as it has no class 'one'",
        "colour: left out, as its images have 3 channels, and those of the data 1",
        "others: left out, as it was trained on other data; --methods measures it all the same",
        "small: left out, as its images are 2×4, and those of the data 4×4",
    ]


def test_a_method_of_other_data_is_measured_if_it_is_named(bundles: Path, methods: list[dict[str, Any]]) -> None:
    ((method, _),) = choose(methods, settings(bundles, "others"), TRAIN)
    assert method["method"] == "others"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("colour", "--methods colour: its images have 3 channels"),
        ("classless", "--methods classless: it has no class 'one'"),
        ("nothing", "--methods nothing: not in"),
    ],
)
def test_a_method_that_is_named_and_does_not_fit_is_refused(
    bundles: Path, methods: list[dict[str, Any]], name: str, problem: str
) -> None:
    with pytest.raises(EvaluateError, match=problem):
        choose(methods, settings(bundles, "mine", name), TRAIN)


def test_that_no_method_is_of_the_data_is_said(bundles: Path, methods: list[dict[str, Any]]) -> None:
    large = Dataset(np.zeros((2, 1, 9, 9), np.uint8), np.array([0, 1]), ["zero", "one"])
    with pytest.raises(EvaluateError, match=r"^no method in .*bundles is of the data in pets$"):
        choose(methods, settings(bundles), large)


def test_a_report_without_a_place_for_the_table_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    report = tmp_path / "quality.md"
    report.write_text("My thesis")
    with pytest.raises(EvaluateError, match=rf"^{report}: it lacks the lines"):
        evaluate(Settings(data=tmp_path / "nowhere", report=report))
    assert report.read_text() == "My thesis"


def test_both_splits_are_in_colour_if_one_is(tmp_path: Path) -> None:
    for split, mode in (("train", "RGB"), ("test", "L")):
        path = tmp_path / split / "x" / "1.png"
        path.parent.mkdir(parents=True)
        Image.new(mode, (4, 4), 7 if mode == "L" else (1, 2, 3)).save(path)
    train, test = data.load_both(tmp_path)
    assert train.images[0, :, 0, 0].tolist() == [1, 2, 3]
    assert test.images[0, :, 0, 0].tolist() == [7, 7, 7]
