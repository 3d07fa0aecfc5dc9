"""The plans against the papers' equations, and the laws that hold for every table."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.ddim.plan import SOLVERS
from models.discrete import ddim_plan, dpmpp_2m_plan, max_steps
from models.schedules import (
    Grid,
    Vector,
    cosine_schedule,
    grid_at,
    log_snr_grid,
    log_snr_timesteps,
    trailing_grid,
    trailing_timesteps,
)
from models.solvers import ddim, dpmpp_2m
from models.step import HISTORY, Plan, Step, update, with_history

T = 1000
ABAR = cosine_schedule(T)
SCHEDULE = {"alphas_cumprod": ABAR.tolist()}
COUNTS = [1, 2, 3, 4, 7, 10, 20, 30, 50, 250, 333, 1000]
SHAPE = (2, 3, 4, 4)

schedules = st.integers(1, 200).map(cosine_schedule)
unit = st.floats(0, 1)


def visited(steps: int) -> Grid:
    timesteps = trailing_timesteps(T, steps)
    return grid_at(ABAR, timesteps)


# --- against the papers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("steps", COUNTS)
def test_the_ddim_table_is_equations_12_and_16_of_the_paper(steps: int, eta: float) -> None:
    t, abar_t, abar_s = visited(steps)
    for k, time, a_t, a_s in zip(ddim_plan(SCHEDULE, steps, eta=eta), t, abar_t, abar_s, strict=True):
        sigma = eta * math.sqrt((1 - a_s) / (1 - a_t)) * math.sqrt(1 - a_t / a_s)  # eq. 16
        # Eq. 12: √ᾱ_s·x0 + √(1 − ᾱ_s − σ²)·ε + σ·noise, and by eq. 4 ε = (x − √ᾱ_t·x0)/√(1 − ᾱ_t).
        R = math.sqrt(1 - a_s - sigma**2) / math.sqrt(1 - a_t)
        S = math.sqrt(a_s) - R * math.sqrt(a_t)
        expected = Step(time, 1 / math.sqrt(a_t), -math.sqrt(1 / a_t - 1), 1, R, S, 0, 0, sigma)
        assert k == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("steps", COUNTS)
def test_the_dpmpp_2m_table_is_algorithm_2_of_the_paper(steps: int) -> None:
    t, abar_t, abar_s = log_snr_grid(SCHEDULE["alphas_cumprod"], steps)
    lambdas = [math.log(a / (1 - a)) / 2 for a in abar_t]  # λ = log(α/σ), half the log of the signal-to-noise ratio
    for i, k in enumerate(dpmpp_2m_plan(SCHEDULE, steps)):
        if i == steps - 1:  # to λ = ∞: x_s is x0
            R, S, H = 0.0, 1.0, 0.0
        else:
            h = lambdas[i + 1] - lambdas[i]
            gain = math.sqrt(abar_s[i]) * (1 - math.exp(-h))
            inverse_2r = h / (lambdas[i] - lambdas[i - 1]) / 2 if i > 0 else 0.0
            R = math.sqrt((1 - abar_s[i]) / (1 - abar_t[i]))
            S, H = gain * (1 + inverse_2r), -gain * inverse_2r
        expected = Step(t[i], 1 / math.sqrt(abar_t[i]), -math.sqrt(1 / abar_t[i] - 1), 1, R, S, 0, H, 0)
        assert k == pytest.approx(expected, rel=1e-10)


def test_the_cosine_schedule_is_that_of_the_paper_between_its_held_off_ends() -> None:
    # ᾱ = cos²(φ), φ even in time (Nichol & Dhariwal 2021, eq. 17), from σ = 0.01 to α = 0.01.
    angles = np.arccos(np.sqrt(ABAR))
    assert np.diff(angles) == pytest.approx((angles[-1] - angles[0]) / (T - 1), rel=1e-9)
    assert math.sqrt(1 - ABAR[0]) == pytest.approx(0.01)
    assert math.sqrt(ABAR[-1]) == pytest.approx(0.01)


def test_a_rectified_flow_in_three_lines_recovers_x0() -> None:
    ts = np.linspace(1.0, 0.0, 9)
    plan = Plan(Step(t, x0_from_x=1, x0_from_out=-t, x_from_x=1, x_from_out=s - t) for t, s in pairwise(ts))
    rng = np.random.default_rng(0)
    x0_true, x = rng.normal(size=SHAPE), rng.normal(size=SHAPE)
    for k in plan:
        velocity = (x - x0_true) / k.t
        x, x0 = update(k, x, velocity, np.zeros_like(x), np.zeros_like(x))
        np.testing.assert_allclose(x0, x0_true, rtol=0, atol=1e-14)
    np.testing.assert_allclose(x, x0_true, rtol=0, atol=1e-14)


# --- laws ----------------------------------------------------------------------------------------------------------


def run_with_exact_noise(plan: Plan, abar_t: Vector, x0_true: Vector, eps: Vector) -> list[Vector]:
    """x after each step, from α·x0 + σ·eps, with a network that knows x0 and so the noise in any x."""
    rng = np.random.default_rng(1)
    alpha, sigma = np.sqrt(abar_t), np.sqrt(1 - abar_t)
    x, earlier, xs = alpha[0] * x0_true + sigma[0] * eps, list[Vector](), []
    for row, alpha_t, sigma_t in zip(plan, alpha, sigma, strict=True):
        k, x0_prev = with_history(row, earlier[: len(HISTORY)])
        out = (x - alpha_t * x0_true) / sigma_t
        x, x0 = update(k, x, out, x0_prev, rng.normal(size=x.shape))
        earlier.insert(0, x0)
        xs.append(x)
    return xs


@given(schedules, st.sampled_from(sorted(SOLVERS)), unit, unit, st.integers(0, 2**32 - 1))
def test_with_the_exact_noise_every_solver_ends_at_x0(
    abar: Vector, solver: str, share: float, eta: float, seed: int
) -> None:
    steps = 1 + int(share * (len(abar) - 1))
    options = dict.fromkeys(SOLVERS[solver].settings, eta)
    plan = SOLVERS[solver].plan({"alphas_cumprod": abar.tolist()}, steps, **options)
    rng = np.random.default_rng(seed)
    x0, eps = rng.uniform(-1, 1, size=8), rng.normal(size=8)
    last = run_with_exact_noise(plan, abar[[int(k.t) for k in plan]], x0, eps)[-1]
    np.testing.assert_allclose(last, x0, rtol=0, atol=1e-10)


@given(schedules, unit, st.integers(0, 2**32 - 1))
def test_with_the_exact_noise_ddim_without_noise_stays_on_the_line(abar: Vector, share: float, seed: int) -> None:
    steps = 1 + int(share * (len(abar) - 1))
    _, abar_t, abar_s = trailing_grid(abar, steps)
    rng = np.random.default_rng(seed)
    x0, eps = rng.uniform(-1, 1, size=8), rng.normal(size=8)
    xs = run_with_exact_noise(ddim(np.arange(steps, dtype=np.float64), abar_t, abar_s, eta=0.0), abar_t, x0, eps)
    line = np.sqrt(abar_s)[:, None] * x0 + np.sqrt(1 - abar_s)[:, None] * eps
    np.testing.assert_allclose(xs, line, rtol=0, atol=1e-10)


@given(schedules, unit, unit)
def test_ddim_puts_back_as_much_noise_as_the_schedule_wants(abar: Vector, share: float, eta: float) -> None:
    steps = 1 + int(share * (len(abar) - 1))
    plan = ddim_plan({"alphas_cumprod": abar.tolist()}, steps, eta=eta)
    _, abar_t, abar_s = trailing_grid(abar, steps)
    kept = [k.noise_std**2 + k.x_from_x**2 * (1 - a_t) for k, a_t in zip(plan, abar_t, strict=True)]
    assert kept == pytest.approx((1 - abar_s).tolist(), rel=1e-12, abs=0)
    if eta == 0:
        assert not any(k.noise_std for k in plan)


@given(st.floats(1e-4, 1 - 2e-4), unit)
def test_the_first_order_of_dpmpp_is_ddim_without_noise(abar_t: float, share: float) -> None:
    bounds = np.array([abar_t]), np.array([abar_t + share * (1 - 1e-4 - abar_t) + 1e-5])
    (a,), (b,) = (solver(np.zeros(1), *bounds, clip=np.inf) for solver in (dpmpp_2m, ddim))
    assert b == pytest.approx(a, rel=1e-8)


@given(schedules, unit)
def test_timesteps_by_log_snr_fall_strictly_each_step_near_its_place(abar: Vector, share: float) -> None:
    steps = 1 + int(share * (len(abar) - 1))
    timesteps = log_snr_timesteps(abar, steps)
    assert len(timesteps) == steps
    assert timesteps[0] == len(abar) - 1
    assert timesteps[-1] >= 0
    assert (np.diff(timesteps) < 0).all()
    log_snr = np.log(abar / (1 - abar))
    targets = np.linspace(log_snr[-1], log_snr[0], steps, endpoint=False)
    if (step := np.diff(targets)).size and step[0] > -np.diff(log_snr).min():  # each has a timestep of its own
        distances = np.abs(log_snr[timesteps] - targets)
        assert (distances <= np.abs(log_snr - targets[:, None]).min(axis=1) + 1e-12).all()


@given(schedules, unit)
def test_timesteps_by_log_snr_are_those_of_a_search_over_all(abar: Vector, share: float) -> None:
    steps = 1 + int(share * (len(abar) - 1))
    log_snr = 0.5 * np.log(abar / (1 - abar))
    targets = np.linspace(log_snr[-1], log_snr[0], steps, endpoint=False)
    nearest = np.abs(log_snr - targets[:, None]).argmin(axis=1)
    after = np.arange(steps)[::-1]
    expected = np.minimum.accumulate(np.maximum(nearest, after) - after) + after
    np.testing.assert_array_equal(log_snr_timesteps(abar, steps), expected)


@given(st.data(), st.integers(1, 5000))
def test_timesteps_fall_strictly_from_the_last_to_no_lower_than_the_first(data: st.DataObject, total: int) -> None:
    steps = data.draw(st.integers(1, total))
    timesteps = trailing_timesteps(total, steps)
    assert len(timesteps) == steps
    assert timesteps[0] == total - 1
    assert timesteps[-1] >= 0
    assert (np.diff(timesteps) < 0).all()
    # Evenly spaced, to the nearest integer: counted from 1, step i starts at total·(1 − i/steps).
    assert (2 * np.abs(steps * (timesteps + 1) - total * np.arange(steps, 0, -1)) <= steps).all()


@pytest.mark.parametrize("steps", COUNTS)
def test_a_plan_has_as_many_steps_as_asked_for(steps: int) -> None:
    assert len(ddim_plan(SCHEDULE, steps, eta=0.0)) == steps
    assert len(dpmpp_2m_plan(SCHEDULE, steps)) == steps


def test_a_plan_of_the_most_steps_visits_every_timestep() -> None:
    plan = ddim_plan(SCHEDULE, max_steps(SCHEDULE), eta=0.0)
    assert [k.t for k in plan] == list(range(T - 1, -1, -1))


@pytest.mark.parametrize("steps", [-1, 0, T + 1, 2 * T])
def test_steps_that_the_schedule_does_not_have_are_rejected(steps: int) -> None:
    with pytest.raises(ValueError, match=f"{steps} steps"):
        ddim_plan(SCHEDULE, steps, eta=0.0)
    with pytest.raises(ValueError, match=f"{steps} steps"):
        dpmpp_2m_plan(SCHEDULE, steps)


# --- Plan and update -----------------------------------------------------------------------------------------------

STEP = Step(
    t=10.0,
    x0_from_x=2.0,
    x0_from_out=-1.0,
    clip=1.0,
    x_from_x=0.5,
    x_from_x0=0.25,
    x_from_out=0.125,
    x_from_x0_prev=0.0,
    noise_std=0.1,
)


@pytest.mark.parametrize("name", [name for name in Step._fields if name != "clip"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_plan_rejects_a_coefficient_that_is_not_finite(name: str, value: float) -> None:
    with pytest.raises(ValueError, match="step 1 has a coefficient that is not finite"):
        Plan([STEP, STEP._replace(**{name: value})])


@pytest.mark.parametrize("c", [0.0, -1.0, -np.inf, np.nan])
def test_a_plan_rejects_a_bound_that_is_not_positive(c: float) -> None:
    with pytest.raises(ValueError, match="step 1 clips x0 to a bound that is not positive"):
        Plan([STEP, STEP._replace(clip=c)])


def test_a_plan_rejects_what_no_sampler_means() -> None:
    with pytest.raises(ValueError, match="at least one step"):
        Plan([])
    with pytest.raises(ValueError, match="step 1 has a negative noise"):
        Plan([STEP, STEP._replace(noise_std=-0.1)])


def test_a_plan_may_leave_x0_unclipped_and_read_the_x0_before_it() -> None:
    assert Plan([STEP._replace(clip=np.inf), STEP._replace(x_from_x0_prev=-0.1)]) == (
        STEP._replace(clip=np.inf),
        STEP._replace(x_from_x0_prev=-0.1),
    )


def test_the_update_is_the_expression_of_the_design() -> None:
    k = STEP._replace(x_from_x0_prev=-0.75)
    x_new, x0 = update(k, *(np.array(column) for column in ([0.1, 3.0], [0.4, 1.0], [0.5, -0.5], [2.0, -2.0])))
    assert x0 == pytest.approx([2 * 0.1 - 0.4, 1.0])  # the second, 2·3 − 1, is clipped
    assert x_new == pytest.approx(
        [
            0.5 * 0.1 + 0.25 * -0.2 + 0.125 * 0.4 - 0.75 * 0.5 + 0.1 * 2.0,
            0.5 * 3.0 + 0.25 * 1.0 + 0.125 * 1.0 - 0.75 * -0.5 + 0.1 * -2.0,
        ]
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numpy_and_torch_update_to_the_same_bits(dtype: type[np.floating[Any]]) -> None:
    rng = np.random.default_rng(0)
    arrays: list[NDArray[Any]] = [rng.normal(size=SHAPE).astype(dtype) for _ in range(4)]
    for k in (*ddim_plan(SCHEDULE, 10, eta=0.5), *dpmpp_2m_plan(SCHEDULE, 10)):
        for ours, theirs in zip(update(k, *arrays), update(k, *map(torch.from_numpy, arrays)), strict=True):
            assert ours.dtype == dtype
            assert ours.tobytes() == theirs.numpy().tobytes()


def test_rows_of_different_plans_in_one_batch_are_updated_as_each_alone() -> None:
    rng = np.random.default_rng(0)
    rows = [ddim_plan(SCHEDULE, 7, eta=1.0)[3], dpmpp_2m_plan(SCHEDULE, 30)[12], STEP._replace(clip=np.inf)]
    x, out, x0_prev, noise = rng.normal(size=(4, len(rows), 3, 4, 4))
    table = Step(*np.array(rows).T.reshape(len(Step._fields), len(rows), 1, 1, 1))
    x_new, x0 = update(table, x, out, x0_prev, noise)
    for i, k in enumerate(rows):
        alone = update(k, x[i], out[i], x0_prev[i], noise[i])
        assert np.array_equal(np.stack([x_new[i], x0[i]]), np.stack(alone))
