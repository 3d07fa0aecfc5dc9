"""The page of the measured points: which of them its summary has, and that it is what the shipped manifests say."""

from pathlib import Path

from bundle.manifest import load
from evaluate import report
from evaluate.report import is_best
from tests.conftest import REPOSITORY, SHIPPED

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
