"""What the parsers are compared by."""

from pathlib import Path

from loadtests import parser_benchmark
from tests.conftest import write_bundle
from tests.deploy.conftest import in_this_process


def test_a_turn_has_figures_of_each_kind(tmp_path: Path) -> None:
    for name in ("toy", "ddim"):
        write_bundle(tmp_path / name, name=name)
    with in_this_process(tmp_path) as (url, _):
        figures = dict(parser_benchmark.turn(url, 20))
    assert list(figures) == [
        "added to a request",
        "429, a deadline that cannot be met",
        "422, no such number of steps",
        "400, no such version of HTTP",
    ]
    assert figures["added to a request"] > 0
