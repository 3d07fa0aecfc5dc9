"""Plans that were fitted to a model: in its manifest, and as a solver of some numbers of steps alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bundle.files import BundleError
from bundle.loading import Bundle, load
from models import discrete, fitted
from models.step import Plan, Step
from service.engine.placement import Placement
from service.errors import InvalidRequest
from service.requests.request import GenerateRequest
from service.requests.resolve import Sampling, resolve
from tests.conftest import write_bundle
from tests.models.test_solvers import SCHEDULE

THREE = discrete.unipc_plan(SCHEDULE, 3)
FIVE = discrete.deis_plan(SCHEDULE, 5)

FITTED: dict[str, Any] = fitted.with_plan(SCHEDULE, THREE)


def bundle_with(folder: Path, *plans: Plan, **changes: Any) -> Bundle:
    schedule: dict[str, Any] = SCHEDULE
    for plan in plans:
        schedule = fitted.with_plan(schedule, plan)
    return load(write_bundle(folder, noise_schedule=schedule, **changes))


def resolved(bundle: Bundle, **fields: Any) -> Sampling:
    model = Placement(bundle, "cpu", bundle.manifest.digest)
    return resolve(model, GenerateRequest(method="toy", seed=1, **fields))


def test_a_plan_comes_back_from_the_manifest_as_it_was(tmp_path: Path) -> None:
    bundle = bundle_with(tmp_path / "toy", FIVE, THREE)
    assert list(bundle.solvers)[-1] == "fitted"
    assert bundle.solvers["fitted"].steps == (3, 5)
    for plan in (THREE, FIVE):
        np.testing.assert_array_equal(bundle.coefficients(len(plan), "fitted", ()), np.array(plan, dtype=np.float32))


def test_other_steps_are_refused_with_those_that_there_are(tmp_path: Path) -> None:
    bundle = bundle_with(tmp_path / "toy", FIVE, THREE)
    assert resolved(bundle, solver="fitted", steps=3).steps == 3
    with pytest.raises(InvalidRequest) as refused:
        resolved(bundle, solver="fitted", steps=4)
    assert [(each.field, each.allowed) for each in refused.value.errors] == [("steps", [3, 5])]
    assert "no plan of 4 steps" in refused.value.errors[0].detail


def test_a_fitted_default_changes_only_requests_that_say_nothing_of_how(tmp_path: Path) -> None:
    plain = bundle_with(tmp_path / "plain", THREE)
    bundle = bundle_with(tmp_path / "toy", THREE, default={"solver": "fitted", "steps": 3})
    assert bundle.manifest.digest == plain.manifest.digest
    assert (resolved(bundle).solver, resolved(bundle).steps) == ("fitted", 3)
    ways: list[dict[str, Any]] = [{"steps": 3}, {"solver": "ddim"}, {"eta": 1.0}, {"settings": {"eta": 0.5}}]
    ways += [{"image": "AAAA"}, {"noise": "AAAA"}]
    for way in ways:
        assert resolved(bundle, **way) == resolved(plain, **way)


def test_what_begins_at_an_image_begins_at_the_level_of_the_states(tmp_path: Path) -> None:
    """A solver's own table has the levels of its times."""
    bundle = bundle_with(tmp_path / "toy", FIVE)
    np.testing.assert_allclose(bundle.signal(5, "fitted", ()), bundle.signal(5, "deis", ()), rtol=1e-5)


def test_a_fitted_plan_is_never_run_backwards(tmp_path: Path) -> None:
    bundle = bundle_with(tmp_path / "toy", THREE)
    assert bundle.inverter == bundle_with(tmp_path / "other").inverter
    only = load(write_bundle(tmp_path / "heun", noise_schedule={**FITTED, "solvers": ["heun"]}))
    assert only.inverter is None


def test_a_model_without_fitted_plans_has_no_such_solver(toy: Bundle) -> None:
    assert "fitted" not in toy.solvers
    with pytest.raises(InvalidRequest):
        resolved(toy, solver="fitted")


ROW = {"t": 1.0, "x_from_x0": 1.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise_schedule": {**SCHEDULE, "fitted": {"2": [ROW]}}}, "the fitted plan of 2 steps has 1 rows"),
        ({"noise_schedule": {**SCHEDULE, "fitted": {"two": [ROW, ROW]}}}, "two"),
        ({"noise_schedule": {**SCHEDULE, "fitted": {"0": []}}}, "fitted"),
        ({"noise_schedule": {**SCHEDULE, "fitted": {"1": [{**ROW, "gain": 1.0}]}}}, "gain"),
        ({"noise_schedule": {**SCHEDULE, "fitted": {"1": [{**ROW, "x_from_x0": "1"}]}}}, "'isfinite' not supported"),
        ({"noise_schedule": {**SCHEDULE, "fitted": {"1": [{**ROW, "x_from_x0_prev": 1.0}]}}}, "no x0 1 steps before"),
        ({"noise_schedule": {**SCHEDULE, "fitted": {"2": [{**ROW, "x_from_x0": 1e39}, ROW]}}}, "float32 cannot hold"),
        ({"noise_schedule": {**SCHEDULE, "fitted": {"1": [{**ROW, "x_from_x0": 0.9}]}}}, "no mean of the x0"),
        ({"noise_schedule": {**SCHEDULE, "fitted": {"1": [{**ROW, "x_from_x": 0.1}]}}}, "no mean of the x0"),
        ({"noise_schedule": {**SCHEDULE, "fitted": {"1": [{**ROW, "noise_std": 0.1}]}}}, "no mean of the x0"),
        ({"noise_schedule": {**SCHEDULE, "fitted": []}}, "noise_schedule: fitted"),
        ({"default": {"solver": "fitted", "steps": 3}}, "default: there is no solver 'fitted'"),
        ({"default": {"solver": "ddim", "steps": 1001}}, "default: ddim has no plan of 1001 steps"),
    ],
)
def test_a_manifest_with_a_fitted_plan_that_is_none_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        load(write_bundle(tmp_path / "toy", **changes))


def test_rows_leave_out_what_has_its_default() -> None:
    row = Step(t=3.0, x_from_x0=1.0)
    stored = fitted.with_plan({}, Plan([row]))
    assert json.loads(json.dumps(stored)) == {"fitted": {"1": [{"t": 3.0, "x_from_x0": 1.0}]}}
