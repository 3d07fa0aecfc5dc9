"""The default of a model with fitted plans: the nearest of them, where it beats the first solver in no more steps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bundle.loading import load
from bundle.manifest import Default, MeasuredPoint
from evaluate.measure import Record, points
from models import discrete, fitted
from models.families import Point
from tests.conftest import write_bundle
from tests.models.test_solvers import SCHEDULE

USUAL = ("ddim", 5, {"eta": 0.0})  # of the toy, without a fitted plan


def measured(solver: str, steps: int, settings: Mapping[str, float], distance: float) -> MeasuredPoint:
    figures: dict[str, Any] = {"images": 10, "frechet_distance": distance, "alone_ms": 1.0, "saturated_ms": 1.0}
    figures |= {"precision": 0.5, "recall": 0.5, "class_agreement": 1.0, "class_coverage": 1.0, "class_entropy": 1.0}
    return MeasuredPoint(solver=solver, steps=steps, settings=dict(settings), **figures)


@pytest.mark.parametrize(
    ("distances", "default"),
    [
        ([(*USUAL, 4.0), ("fitted", 3, {}, 3.0), ("fitted", 4, {}, 2.0)], ("fitted", 4)),
        ([(*USUAL, 4.0), ("fitted", 3, {}, 3.0), ("fitted", 8, {}, 2.0)], ("fitted", 3)),
        ([(*USUAL, 2.5), ("fitted", 3, {}, 3.0), ("dpmpp_2m", 4, {}, 1.0)], None),
        ([("fitted", 3, {}, 3.0), ("ddim", 4, {"eta": 0.0}, 9.0)], None),
        ([(*USUAL, 4.0)], None),
    ],
)
def test_the_nearest_fitted_plan_is_the_default_where_it_wins(
    tmp_path: Path, distances: list[tuple[str, int, dict[str, float], float]], default: tuple[str, int] | None
) -> None:
    schedule: dict[str, Any] = SCHEDULE
    for steps in (3, 4, 8):
        schedule = fitted.with_plan(schedule, discrete.deis_plan(SCHEDULE, steps))
    before = {"solver": "fitted", "steps": 8}
    record = Record(load(write_bundle(tmp_path / "toy", noise_schedule=schedule, default=before)))
    for each in distances:
        record.add(measured(*each))
    record.choose_default()
    expected = None if default is None else Default(solver=default[0], steps=default[1])
    assert load(tmp_path / "toy").manifest.default == expected


def test_each_fitted_plan_is_a_point() -> None:
    solvers = [{"name": "ddim", "settings": {}, "steps": []}, {"name": "fitted", "settings": {}, "steps": [3, 5]}]
    found = points({"family": "ddim", "solvers": solvers})
    assert found[-2:] == [Point("fitted", 3, {}), Point("fitted", 5, {})]
    assert {point.solver for point in found[:-2]} == {"ddim"}
