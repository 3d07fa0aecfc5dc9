"""`./run fit` on a toy: what it finds, what it keeps, what decides, and what it refuses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bundle.loading import load
from evaluate.fidelity import frechet_distance
from fit import fitting, study
from fit.candidate import PLACE, Candidate
from fit.gauss_newton import GaussNewton
from fit.options import Settings
from fit.sampling import Sampler
from fit.study import Study
from fit.target import Target
from models import discrete
from models.failures import FitError
from models.step import Plan, update
from tests.conftest import ToyRuntime, write_bundle
from tests.models.test_solvers import SCHEDULE

FINEST = discrete.ddim_plan(SCHEDULE, 1000, eta=0.0)
SHAPE = (1, 16, 16)


@pytest.fixture
def sampler(tmp_path: Path) -> Sampler:
    return Sampler(load(write_bundle(tmp_path / "toy")), ToyRuntime(), threads=1)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Of a bundle that a toy runs, with as little work as shows something."""
    monkeypatch.setattr(study, "OrtRuntime", lambda _bundle, threads: ToyRuntime())
    monkeypatch.setattr(study, "CHUNK", 20)
    monkeypatch.setattr(study, "TRIED", 12)
    folder = write_bundle(tmp_path / "toy", shape=SHAPE, state_shape=SHAPE)
    values: dict[str, Any] = {"steps": [2], "teacher_steps": 4, "images": 40, "iterations": 2, "batch_size": 12}
    return Settings.model_construct(bundle=folder, work=tmp_path / "work", **values)


def test_the_method_finds_the_numbers_that_images_were_made_with(sampler: Sampler) -> None:
    start = Candidate.near(FINEST, discrete.deis_plan(SCHEDULE, 3))
    changes = np.random.default_rng(0).normal(0, 0.5, len(start.numbers()))
    wanted = start.moved(changes)
    images = sampler.final(wanted.plan(), 5, 8)
    runs: list[int] = []
    method = GaussNewton(sampler, lambda states: (states - images).ravel().astype(np.float64), runs.append)
    candidate = start
    for _ in range(4):
        before = sum(runs)
        candidate = method.step(candidate, 5, 8)
        assert sum(runs) - before == GaussNewton.runs(candidate)
    error = np.square(sampler.final(candidate.plan(), 5, 8) - images).mean()
    assert error < 0.01 * np.square(sampler.final(start.plan(), 5, 8) - images).mean()


def test_a_step_without_the_network_is_the_step(sampler: Sampler) -> None:
    plan = discrete.ddim_plan(SCHEDULE, 4, eta=1.0)
    trajectory = sampler.run(plan, 3, 5)
    for i, k in enumerate(plan):
        x = sampler.weighted(k, trajectory.x[i], trajectory.x0[: i + 1], 3, i)
        np.testing.assert_allclose(x, trajectory.x[i + 1], atol=1e-6)
    np.testing.assert_array_equal(sampler.final(plan, 3, 5), trajectory.x[-1])


def test_residuals_are_the_distance_of_what_is_near() -> None:
    rng = np.random.default_rng(1)
    scales = np.linspace(1, 3, 6)
    own = (rng.normal(size=(4000, 6)) * scales).astype(np.float32)
    target = Target([np.concatenate([own, own])])
    moved = own @ (np.eye(6) + 0.05 * rng.normal(size=(6, 6))).astype(np.float32) + 0.1
    residuals, distance = target.residuals([moved]), target.distance([moved])
    assert np.square(residuals).sum() == pytest.approx(distance, rel=0.05)
    assert distance == pytest.approx(
        frechet_distance(own / np.sqrt(own.var(axis=0).sum()), moved / np.sqrt(own.var(axis=0).sum()))
    )


@pytest.mark.parametrize("plan", [discrete.deis_plan(SCHEDULE, 4), discrete.ddim_plan(SCHEDULE, 3, eta=1.0)])
def test_whatever_the_numbers_a_constant_x0_comes_out_as_itself(plan: Plan) -> None:
    start = Candidate.near(FINEST, plan)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        candidate = start.moved(rng.normal(0, 3, len(start.numbers())))
        x, earlier = rng.normal(size=4), list[NDArray[np.float64]]()
        for k in candidate.plan():
            always = k._replace(x0_from_x=0.0, x0_from_out=1.0)
            history = k.x_from_x0_prev2 * earlier[-2] if len(earlier) > 1 else 0.0
            history += k.x_from_x0_prev3 * earlier[-3] if len(earlier) > 2 else 0.0
            last = earlier[-1] if earlier else np.zeros(4)
            x, x0 = update(always, x, np.full(4, 0.3), last, rng.normal(size=4))
            x, earlier = x + history, [*earlier, x0]
        np.testing.assert_allclose(x, 0.3, atol=1e-12)


def test_a_candidate_begins_as_its_plan_and_keeps_its_times_within_the_schedule() -> None:
    plan = discrete.deis_plan(SCHEDULE, 4)
    start = Candidate.near(FINEST, plan)
    np.testing.assert_allclose(np.array(start.plan()), np.array(plan), atol=1e-12)
    far = start.moved(np.array([-1e6 if number.column == PLACE else 0.0 for number in start.numbers()]))
    assert {k.t for k in far.plan()} == {FINEST[0].t}


@pytest.mark.usefixtures("one_thread")
def test_a_fit_that_was_stopped_goes_on_and_gives_the_same_plan(settings: Settings, tmp_path: Path) -> None:
    whole = Study(settings).fitted_plan(2)
    other = settings.model_copy(update={"work": tmp_path / "other", "iterations": 1})
    Study(other).fitted_plan(2)
    resumed = Study(other.model_copy(update={"iterations": 2}))
    resumed.sampler._runtime.fail_on = {0, 1, 2}  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="broke"):
        resumed.fitted_plan(2)
    resumed.sampler._runtime.fail_on = set()  # type: ignore[attr-defined]
    assert resumed.fitted_plan(2) == whole
    assert resumed.fitted_plan(2) == whole


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("wins", [True, False])
def test_held_out_seeds_decide(settings: Settings, wins: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def distance(_: Study, plan: Plan) -> float:
        return 1.0 if (plan == fitted_plan) == wins else 2.0

    fitted_plan = Study(settings).fitted_plan(2)
    monkeypatch.setattr(Study, "held_out_distance", distance)
    before = load(settings.bundle)
    fitting.fit(settings)
    after = load(settings.bundle)
    assert ("fitted" in after.solvers) == wins
    assert (after.manifest == before.manifest) != wins
    if wins:
        assert after.solvers["fitted"].plan(after.manifest.noise_schedule, 2) == fitted_plan
        for name in before.solvers:
            settings_of = before.solvers[name].defaults
            np.testing.assert_array_equal(
                after.coefficients(5, name, settings_of), before.coefficients(5, name, settings_of)
            )


@pytest.mark.usefixtures("one_thread")
def test_held_out_seeds_are_none_that_a_plan_was_fitted_with(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: dict[str, set[int]] = {"": set(), "held out": set()}
    noise = Sampler._noise
    phase = ""

    def seen(self: Sampler, seed: int, stream: int, count: int) -> Any:
        seeds[phase].add(seed)
        return noise(self, seed, stream, count)

    monkeypatch.setattr(Sampler, "_noise", seen)
    fits = Study(settings)
    plan = fits.fitted_plan(2)
    phase = "held out"
    fits.held_out_distance(plan)
    assert seeds["held out"]
    assert not seeds["held out"] & seeds[""]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {
                "latent": 8,
                "family": "ddgan",
                "noise_schedule": {"alphas_cumprod": [0.9, 0.5, 0.1]},
                "recommended_steps": 2,
            },
            "no solver ddim",
        ),
        ({"noise_schedule": {**SCHEDULE, "solvers": ["ddim", "dpmpp_2m"]}}, "no solver deis"),
        ({"classes": []}, "no classes"),
    ],
)
def test_a_model_that_cannot_be_fitted_is_refused(
    settings: Settings, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = write_bundle(tmp_path / "bad", **changes)
    with pytest.raises(FitError, match=message):
        Study(settings.model_copy(update={"bundle": folder}))
