"""The page of the measured points: which of them its summary has, and that it is what the shipped manifests say."""

from pathlib import Path
from typing import Any

import pytest

from bundle.loading import load
from evaluate import report
from evaluate.report import is_best
from models.failures import EvaluateError
from tests.conftest import REPOSITORY, SHIPPED, write_bundle

PAGE = REPOSITORY / "docs" / "benchmarks" / "quality.md"


def test_a_point_is_on_the_front_unless_another_is_as_fast_and_as_near() -> None:
    some = load(SHIPPED).manifest.measured.points[0]
    points = [
        some.model_copy(update={"alone_ms": ms, "frechet_distance": distance})
        for ms, distance in ((1, 9), (2, 5), (3, 5), (4, 6), (5, 1))
    ]
    assert [is_best(point, points) for point in points] == [True, True, False, False, True]


def test_the_shipped_page_and_its_raw_data_are_those_of_the_shipped_bundles(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks" / "quality.md"
    page.parent.mkdir()
    page.write_text(PAGE.read_text())
    report.write(page, REPOSITORY / "bundles")
    assert page.read_text() == PAGE.read_text()
    raw = Path("raw") / "quality.csv"
    assert (page.parent / raw).read_text() == (PAGE.parent / raw).read_text()


def measured(bundles: Path, name: str, distance: float, **changes: Any) -> None:
    """A bundle with one point."""
    figures = {"frechet_distance": distance, "precision": 0.5, "recall": 0.5, "class_agreement": 0.5}
    point = {**figures, "solver": "ddim", "steps": 5, "settings": {"eta": 0.0}, "alone_ms": 7.0, "saturated_ms": 1.0}
    floor = {**figures, "frechet_distance": distance / 2}
    judge = changes.pop("judge", "")
    results = {"machine": "a machine", "judge": judge, "floor": floor, "points": [point]}
    write_bundle(bundles / name, name=name, measured=results, **changes)


def test_each_data_set_has_a_table_and_a_plot_of_its_own(tmp_path: Path) -> None:
    bundles, page = tmp_path / "bundles", tmp_path / "docs" / "benchmarks" / "quality.md"
    in_colour = {"shape": (3, 8, 8), "state_shape": (3, 8, 8), "classes": ["cat", "dog"]}
    measured(bundles, "colour", 80.0, judge="cifar-8", **in_colour)
    measured(bundles, "grey", 20.0, judge="mnist-4")
    measured(bundles, "old", 30.0, checkpoint={"training": {"data_digest": "mnist"}})
    measured(bundles, "older", 40.0, checkpoint={"training": {"data_digest": "other"}})
    write_bundle(bundles / "damaged").joinpath("manifest.json").write_text("{")
    page.parent.mkdir(parents=True)
    report.write(page, bundles)
    _, *tables = page.read_text().split("\n## ")
    assert [table.partition("\n")[0] for table in tables] == [
        "Grey, 4×4: zero, one, 2",
        "Grey, 4×4: zero, one, 2",
        "Colour, 8×8: cat, dog",
    ]
    for table, names, floor in zip(tables, (["grey", "old"], ["older"], ["colour"]), (10, 20, 40), strict=True):
        rows = [line for line in table.splitlines() if line.startswith("| ") and "Fréchet" not in line]
        assert {row.split(",")[0] for row in rows if "training" not in row} == {f"| {name}" for name in names}
        assert all(f" {floor}.00 |" in row for row in rows if "training images" in row)
    pictures = sorted(path.name for path in (tmp_path / "docs" / "images").glob("*.svg"))
    assert pictures == ["trilemma-cifar-8.svg", "trilemma-other-4.svg", "trilemma.svg"]
    assert all(f"images/{name}" in page.read_text() for name in pictures)


@pytest.mark.parametrize("text", ["", "A thesis", f"{report.END}\n{report.BEGIN}", report.BEGIN])
def test_a_page_without_the_two_marks_in_order_is_refused(tmp_path: Path, text: str) -> None:
    page = tmp_path / "quality.md"
    page.write_text(text)
    with pytest.raises(EvaluateError, match=rf"^{page}: it lacks the lines"):
        report.check(page)
    report.check(tmp_path / "not-yet.md")
