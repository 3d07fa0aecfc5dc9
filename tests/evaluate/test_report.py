"""The page of the measured points: which of them its summary has, and that it is what the shipped manifests say."""

import re
from pathlib import Path
from typing import Any

import pytest

from bundle.loading import load
from evaluate import report
from evaluate.report import is_best
from models.failures import EvaluateError
from tests.conftest import IN_COLOUR, REPOSITORY, SHIPPED, write_bundle

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


def measured(bundles: Path, name: str, *distances: float, **changes: Any) -> None:
    """A bundle with a point for each distance, of 5 steps, 6 and so on."""
    figures = {"images": changes.pop("images", 500), "precision": 0.5, "recall": 0.5, "class_agreement": 0.5}
    point = {"solver": "ddim", "settings": {"eta": 0.0}, "alone_ms": 7.0, "saturated_ms": 1.0}
    points = [{**figures, **point, "steps": 5 + i, "frechet_distance": each} for i, each in enumerate(distances)]
    floor = {**figures, "images": 500, "frechet_distance": distances[0] / 2}
    judge = changes.pop("judge", "")
    results = {"machine": "a machine", "judge": judge, "floor": floor, "points": points}
    write_bundle(bundles / name, name=name, measured=results, **changes)


def rows(section: str) -> list[str]:
    return [line for line in section.splitlines() if line.startswith("| ") and "Fréchet" not in line]


def of(name: str, digest: str = "") -> dict[str, str]:
    return {"name": name, "digest": digest}


@pytest.fixture
def page(tmp_path: Path) -> Path:
    page = tmp_path / "docs" / "benchmarks" / "quality.md"
    page.parent.mkdir(parents=True)
    return page


def test_each_data_set_has_a_section_a_table_and_a_plot_by_its_own_judge(tmp_path: Path, page: Path) -> None:
    bundles = tmp_path / "bundles"
    measured(bundles, "grey", 20.0, judge="mnist-4", dataset=of("MNIST", "mnist"))
    measured(bundles, "old", 30.0, dataset=of("MNIST", "mnist"))
    measured(bundles, "older", 40.0, checkpoint={"training": {"data_digest": "other"}})
    measured(bundles, "pictures", 80.0, dataset=of("CIFAR-10", "cifar"), **IN_COLOUR)
    write_bundle(bundles / "damaged").joinpath("manifest.json").write_text("{")
    report.write(page, bundles)
    _, *tables = page.read_text().split("\n## ")
    assert [table.partition("\n")[0] for table in tables] == ["CIFAR-10", "MNIST", "Unnamed data set"]
    for table, judge, names, floor in zip(
        tables,
        ("cifar-4", "mnist-4", "other-4"),
        (["pictures"], ["grey", "old"], ["older"]),
        (40, 10, 20),
        strict=True,
    ):
        assert f"500 images a point, by the judge `{judge}`." in table
        assert {row.split(",")[0] for row in rows(table) if "training" not in row} == {f"| {name}" for name in names}
        assert all(f" {floor}.00 |" in row for row in rows(table) if "training images" in row)
    pictures = sorted(path.name for path in (tmp_path / "docs" / "images").glob("*.svg"))
    assert pictures == ["trilemma-cifar-10.svg", "trilemma-mnist.svg", "trilemma-unnamed-data-set.svg"]
    assert all(f"images/{name}" in table for name, table in zip(pictures, tables, strict=True))


def test_a_new_measurement_of_one_data_set_leaves_the_section_of_the_other(tmp_path: Path, page: Path) -> None:
    bundles = tmp_path / "bundles"
    measured(bundles, "digits", 20.0, dataset=of("MNIST", "mnist"))
    measured(bundles, "pictures", 80.0, dataset=of("CIFAR-10", "cifar"), **IN_COLOUR)
    report.write(page, bundles)
    before, plot = page.read_text(), tmp_path / "docs" / "images" / "trilemma-mnist.svg"
    mnist, drawn = before.partition("## MNIST")[2], plot.read_bytes()
    measured(bundles, "more-pictures", 70.0, dataset=of("CIFAR-10", "cifar"), **IN_COLOUR)
    report.write(page, bundles)
    assert page.read_text() != before
    assert (page.read_text().partition("## MNIST")[2], plot.read_bytes()) == (mnist, drawn)


def test_two_judges_of_one_data_set_have_a_section_each(tmp_path: Path, page: Path) -> None:
    for judge in ("mine", "yours"):
        measured(tmp_path / "bundles", judge, 20.0, judge=judge, dataset=of("MNIST"))
    report.write(page, tmp_path / "bundles")
    assert re.findall("^## (.*)", page.read_text(), re.MULTILINE) == ["MNIST, by mine", "MNIST, by yours"]
    assert (tmp_path / "docs" / "images" / "trilemma-mnist-by-yours.svg").exists()


def test_a_point_of_another_number_of_images_says_so(tmp_path: Path, page: Path) -> None:
    measured(tmp_path / "bundles", "fast", 20.0, 30.0, dataset=of("MNIST"))
    measured(tmp_path / "bundles", "slow", 25.0, images=100, dataset=of("MNIST"))
    report.write(page, tmp_path / "bundles")
    text = page.read_text()
    assert "500 images a point" in text
    assert "fewer give a larger distance" in text
    assert [row.split(" | ")[0] for row in rows(text)[-4:]] == [
        "| fast, ddim eta=0, 5 `*`",
        "| fast, ddim eta=0, 6",
        "| slow, ddim eta=0, 5 (100 images) `*`",
        "| *training images*",
    ]


@pytest.mark.parametrize("text", ["", "A thesis", f"{report.END}\n{report.BEGIN}", report.BEGIN])
def test_a_page_without_the_two_marks_in_order_is_refused(tmp_path: Path, text: str) -> None:
    page = tmp_path / "quality.md"
    page.write_text(text)
    with pytest.raises(EvaluateError, match=rf"^{page}: it lacks the lines"):
        report.check(page)
    report.check(tmp_path / "not-yet.md")
