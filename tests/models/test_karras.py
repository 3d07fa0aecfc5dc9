"""The plans of noise levels beside the papers' algorithms, diffusers' scheduler, and recorded steps."""

from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models import families
from models.karras import levels, preconditioning
from models.karras.plan import SOLVERS, karras_stops, max_steps
from models.schedules import Vector
from models.step import Plan, update
from tests.importers import parity

Array = NDArray[np.float64]
EDM: dict[str, Any] = {
    "format": "edm",
    "preconditioning": {"kind": "edm", "sigma_data": 0.5},
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    "rho": 7.0,
    "range": [0.002, 80.0],
    "churn": {"S_min": 0.05, "S_max": 50.0, "S_noise": 1.003},
}
VP = {**EDM, "preconditioning": {"kind": "vp", "beta_d": 19.9, "beta_min": 0.1, "M": 1000}, "range": [1e-3, 152.167]}
RNG = np.random.default_rng(0)
START = RNG.standard_normal((2, 3, 4, 4))
NOISES = RNG.standard_normal((12, 2, 3, 4, 4))


def denoise(x: Array, sigma: float) -> Array:
    """D of data with mean 0.3·cos of its place and variance 0.25, and something that is not linear."""
    mean = 0.3 * np.cos(np.arange(x[0].size).reshape(x[0].shape))
    result: Array = mean + 0.25 / (0.25 + sigma**2) * (x - mean) + 0.1 * np.sin(x / (1 + sigma))
    return result


def sampled(plan: Plan, schedule: dict[str, Any], sigmas: Vector, noises: Array) -> Array:
    """What the plan makes of START with the network of `denoise`, which is called at `sigmas`; noise i is for row i."""
    functions = preconditioning.of(schedule["preconditioning"])
    x, x0 = START, np.zeros_like(START)
    for k, sigma, noise in zip(plan, sigmas, noises, strict=False):
        one = np.array([sigma])
        assert k.t == functions.c_noise(one)[0]
        c_skip, c_out, c_in = (f(one)[0] for f in (functions.c_skip, functions.c_out, functions.c_in))
        inner = k.network_from_x * x / c_in  # what the network sees as x
        out = (denoise(inner, sigma) - c_skip * inner) / c_out
        x, x0 = update(k, x, out, x0, noise)
    return x


def rising(steps: int) -> Vector:
    """Karras et al. 2022, eq. 5."""
    i = np.arange(steps)
    return (80 ** (1 / 7) + i / (steps - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7


def test_the_levels_are_those_of_equation_5() -> None:
    np.testing.assert_allclose(karras_stops(EDM, 10).t, rising(10), rtol=1e-13)
    recorded = parity.arrays("cm_edm_uncond16_traj.npz")
    single = {**EDM, "format": "consistency-models"}
    for steps in (10, 40):
        np.testing.assert_allclose(karras_stops(single, steps).t, recorded[f"sigmas_karras_{steps}"][:-1], rtol=1e-7)


@pytest.mark.parametrize("steps", [2, 5])
def test_heun_is_algorithm_1(steps: int) -> None:
    x, at = 80 * START, rising(steps)
    for t, s in zip(at, [*at[1:], 0.0], strict=True):
        d = (x - denoise(x, t)) / t
        euler = x + (s - t) * d
        x = x + (s - t) * (d + (euler - denoise(euler, s)) / s) / 2 if s else euler
    plan = SOLVERS["heun"].plan(EDM, steps, churn=0.0)
    assert len(plan) == 2 * steps - 1
    visited = np.repeat(at, 2)[[0, *range(2, 2 * steps)]]
    np.testing.assert_allclose(sampled(plan, EDM, visited, NOISES), x, rtol=1e-8, atol=1e-9)


def test_the_second_row_of_heun_needs_the_two_denoised_states_alone() -> None:
    """x_s = x1 + (1 − r)/2r·(D2 − D1), with r = σ_s/σ_t."""
    at = rising(7)
    for k, t, s in zip(SOLVERS["heun"].plan(EDM, 7, churn=0.0)[1::2], at, at[1:], strict=False):
        gain = (t - s) / (2 * s)
        np.testing.assert_allclose((k.x_from_x, k.x_from_x0, k.x_from_x0_prev), (1, gain, -gain), rtol=1e-12)


def test_churn_is_algorithm_2() -> None:
    """The noise of a step is that of the row before it; the first step's, which is outside S_max, is none."""
    steps, amount, s_noise = 5, 1.5, 1.003
    x, at, noises, visited = 80 * START, rising(5), [], []
    for i, (t, s) in enumerate(zip(at, [*at[1:], 0.0], strict=True)):
        gamma = min(amount / steps, 2**0.5 - 1) if 0.05 <= t <= 50 else 0.0
        t_hat = t + gamma * t
        x = x + np.sqrt(t_hat**2 - t**2) * s_noise * NOISES[i]
        noises += [NOISES[i + 1]] * (2 if s else 1)
        visited += [t_hat, s][: 2 if s else 1]
        d = (x - denoise(x, t_hat)) / t_hat
        euler = x + (s - t_hat) * d
        x = x + (s - t_hat) * (d + (euler - denoise(euler, s)) / s) / 2 if s else euler
    plan = SOLVERS["heun"].plan(EDM, steps, churn=amount)
    np.testing.assert_allclose(sampled(plan, EDM, np.array(visited), np.array(noises)), x, rtol=1e-8, atol=1e-9)
    assert plan.start_std == 80.0


def test_a_first_step_that_churns_starts_from_the_sum_of_both_noises() -> None:
    plan = SOLVERS["euler"].plan({**EDM, "churn": {}}, 4, churn=100.0)
    assert plan.start_std == pytest.approx(80 * np.sqrt(2))


def test_eulers_method_is_ddim_and_the_ancestral_one_is_ddpm() -> None:
    """In x/√(1 + σ²) with ᾱ = 1/(1 + σ²): Song et al. 2020, arXiv 2010.02502, eqs. 12 and 16."""
    at = rising(6)
    for solver, eta, settings in (("euler", 0.0, {"churn": 0.0}), ("ancestral", 1.0, {})):
        plan = SOLVERS[solver].plan(EDM, 6, **settings)
        for k, t, s in zip(plan[1:], at[1:], [*at[2:], 0.0], strict=True):
            abar_t, abar_s = 1 / (1 + t**2), 1 / (1 + s**2)
            std = eta * np.sqrt((1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s))
            gain = np.sqrt(1 - abar_s - std**2) / np.sqrt(1 - abar_t)
            from_x0 = np.sqrt(abar_s) - gain * np.sqrt(abar_t)
            scale = np.sqrt(abar_s)
            expected = (gain * np.sqrt(abar_t) / scale, from_x0 / scale, std / scale)
            np.testing.assert_allclose((k.x_from_x, k.x_from_x0, k.noise_std), expected, rtol=1e-9, atol=1e-12)


def test_the_midpoint_method_is_of_second_order() -> None:
    """Its error falls as the square of the step, with D of a Gaussian, whose ODE has a solution."""
    schedule = {**EDM, "sigma_min": 1.0, "sigma_max": 10.0, "rho": 1.0}

    def error(steps: int) -> float:
        plan = SOLVERS["dpm"].plan(schedule, steps, churn=0.0)[:-2]  # to σ = 1
        x, x0 = np.float64(1.0), 0.0
        at = np.linspace(10, 1, steps)
        middle = ((np.cbrt(at[:-1]) + np.cbrt(at[1:])) / 2) ** 3
        functions = preconditioning.of(schedule["preconditioning"])
        for k, sigma in zip(plan, np.stack((at[:-1], middle), axis=1).ravel(), strict=True):
            inner = k.network_from_x * x / functions.c_in(sigma)
            out = (inner * 0.25 / (0.25 + sigma**2) - functions.c_skip(sigma) * inner) / functions.c_out(sigma)
            x, x0 = update(k, x, out, x0, 0.0)
        return float(abs(x - 10 * np.sqrt(1.25 / 100.25)))

    assert error(40) == pytest.approx(error(79) * 4, rel=0.1)


def test_dpmpp_2m_is_that_of_the_paper() -> None:
    """With α = 1 and λ = −log σ; the first and the last step are of first order."""
    at = rising(5)
    x, before, h_before = 80 * START, None, 0.0
    for i, t in enumerate(at):
        x0, s = denoise(x, t), ([*at[1:], 0.0])[i]
        h = np.log(t / s) if s else np.inf
        mixed = x0 if before is None or not s else (1 + h / h_before / 2) * x0 - h / h_before / 2 * before
        x = (s / t) * x + (1 - s / t) * mixed
        before, h_before = x0, h
    np.testing.assert_allclose(sampled(SOLVERS["dpmpp_2m"].plan(EDM, 5), EDM, at, NOISES), x, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 3, 7])
def test_multistep_is_that_of_diffusers(steps: int) -> None:
    """Song et al. 2023, arXiv 2303.01469, algorithm 1."""
    schedule = {
        **EDM, "format": "diffusers", "scale_steps": 40, "clip": 1.0, "churn": {"S_noise": 0.9},
        "preconditioning": {"kind": "edm", "sigma_data": 0.5, "boundary": 0.002, "noise_gain": 250.0,
                            "noise_dtype": "float64"},
    }  # fmt: skip
    scheduler = diffusers.CMStochasticIterativeScheduler(s_noise=0.9)
    scheduler.set_timesteps(steps)
    plan = SOLVERS["multistep"].plan(schedule, steps)
    assert plan.start_std == pytest.approx(80.0)
    x = torch.from_numpy(START)
    ours: Any = START
    for i, (k, t) in enumerate(zip(plan, scheduler.timesteps, strict=True)):
        scale = plan.start_std if i == 0 else 1.0
        theirs = x * scale
        assert float(t) == pytest.approx(k.t, rel=1e-6)
        np.testing.assert_allclose(k.network_from_x * ours, scheduler.scale_model_input(theirs, t), rtol=1e-5)
        out = torch.from_numpy(RNG.standard_normal(START.shape))
        noise = torch.randn(START.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(i))
        x = scheduler.step(out, t, theirs, generator=torch.Generator().manual_seed(i)).prev_sample
        ours, _ = update(k, ours, out.numpy(), 0.0, noise.numpy())
        np.testing.assert_allclose(ours, x, atol=1e-4)
        ours = x.numpy()


def test_consistency_sampling_takes_the_published_levels_for_their_number() -> None:
    schedule = {**EDM, "churn": {}, "format": "consistency-models", "scale_steps": 40, "ts": [0, 22, 39]}
    high, low = 80 ** (1 / 7), 0.002 ** (1 / 7)
    for steps, places in ((2, [0, 22, 39]), (3, [0, 13, 26, 39])):
        sigma = [(high + place / 39 * (low - high)) ** 7 for place in places]
        plan = SOLVERS["multistep"].plan(schedule, steps)
        np.testing.assert_allclose([k.noise_std for k in plan], np.sqrt(np.square(sigma[1:]) - 0.002**2), atol=1e-9)
        assert all((k.x_from_x, k.x_from_x0) == (0, 1) for k in plan)
    assert max_steps(schedule) == 39


@pytest.mark.parametrize(
    ("file", "run", "solver", "settings"),
    [
        ("edm_vp_ddpmpp16_traj.npz", "heun10", "heun", {"churn": 0.0}),
        ("edm_vp_ddpmpp16_traj.npz", "vp_euler10", "vp_euler", {}),
        ("edm_vp_ddpmpp16_traj.npz", "vp_heun10", "vp_heun", {}),
        ("cm_edm_uncond16_traj.npz", "heun10", "heun", {"churn": 0.0}),
        ("cm_edm_uncond16_traj.npz", "heun10_churn", "heun", {"churn": 4.0}),
        ("cm_edm_uncond16_traj.npz", "euler10", "euler", {"churn": 0.0}),
        ("cm_edm_uncond16_traj.npz", "ancestral10", "ancestral", {}),
        ("cm_edm_uncond16_traj.npz", "dpm10", "dpm", {"churn": 0.0}),
    ],
)
def test_rows_give_the_recorded_states_from_the_recorded_denoised_ones(
    file: str, run: str, solver: str, settings: dict[str, float]
) -> None:
    recorded = parity.arrays(file)
    official = "vp" in file
    plan = SOLVERS[solver].plan(VP if official else {**EDM, "format": "consistency-models"}, 10, **settings)
    denoised = recorded[f"{run}_call_denoised"] if official else recorded[f"{run}_call_denoised_unclipped"].clip(-1, 1)
    xs, late = recorded[f"{run}_xs"].astype(np.float64), int("churn" in run)
    if not official:
        xs = np.append(xs, recorded[f"{run}_final_raw"][None], axis=0)
    step, x, x0 = -1, xs[0], np.zeros_like(xs[0])
    for k, clean in zip(plan, denoised.astype(np.float64), strict=True):
        if not k.x_from_x0_prev:
            step += 1
            x = xs[step] / (plan.start_std if step == 0 else 1.0)
        noise = recorded["noises"][min(step + late, 9)] if k.noise_std else 0.0
        x, x0 = k.x_from_x * x + k.x_from_x0 * clean + k.x_from_x0_prev * x0 + k.noise_std * noise, clean
        if k is plan[-1] or len(plan) == 10 or k.x_from_x0_prev:
            np.testing.assert_allclose(x, xs[step + 1], atol=2e-6 * xs[step + 1].std())
    assert step == 9


@pytest.mark.parametrize("name", [name for name in SOLVERS if name != "multistep"])
@pytest.mark.parametrize("steps", [1, 2, 35, max_steps(EDM)])
def test_there_is_a_plan_of_any_number_of_steps(name: str, steps: int) -> None:
    settings = dict(SOLVERS[name].defaults)
    evaluations = len(SOLVERS[name].plan(VP, steps, **settings))
    expected = {"heun": 2 * steps - 1, "vp_heun": 2 * steps - 1, "dpm": 2 * steps}
    assert evaluations == expected.get(name, 2 * steps - 1 if name.endswith("heun") else steps)


def test_a_network_that_knows_some_levels_is_called_at_those() -> None:
    known = np.geomspace(80, 0.002, 30)
    numbers = {"kind": "iddpm", "M": 30, "levels": known.tolist()}
    plan = SOLVERS["euler"].plan({**EDM, "preconditioning": numbers}, 8, churn=0.0)
    sigma = known[[29 - int(k.t) for k in plan]]
    assert np.abs(np.log(sigma / rising(8))).max() <= np.log(known[0] / known[1]) / 2 * 1.01
    np.testing.assert_allclose([-k.x0_from_out for k in plan], sigma)


def test_the_levels_of_the_variance_exploding_baseline_are_even_in_their_logarithm() -> None:
    """Table 1: σ(t) = √t, from 100 to 0.02, within the network's own range."""
    time, sigma = levels.ve_baseline(0.02, 100.0, 5)
    np.testing.assert_allclose(np.diff(np.log(sigma)), np.log(0.02 / 100) / 4)
    np.testing.assert_allclose(time.sigma(time.of_sigma(sigma)), sigma)
    np.testing.assert_allclose(levels.ve_baseline(0.02, 50.0, 5)[1][0], 50)


def test_the_levels_of_improved_ddpm_are_those_of_its_cosine_schedule() -> None:
    """σ² = (1 − ᾱ)/ᾱ, where ᾱ has no β above 0.999 (Nichol & Dhariwal 2021, arXiv 2102.09672)."""
    _, sigma = levels.iddpm_baseline(0.0, 1e9, 79)
    abar = np.cos(0.008 / 1.008 * np.pi / 2) ** 2 / (1 + sigma**2)
    t = (np.arccos(np.sqrt(abar)) * 2 / np.pi * 1.008 - 0.008) * 1000
    steps = np.diff(t)
    np.testing.assert_allclose(
        steps[1:], np.round(steps[1:]), atol=1e-6
    )  # whole timesteps, after the first, whose β is bounded
    assert set(np.round(steps)) == {-12.0, -13.0}


@pytest.mark.parametrize("time", [levels.identity(), levels.exploding(), levels.preserving(19.9, 0.1)])
def test_slopes_are_derivatives(time: levels.Time) -> None:
    t, small = np.array([0.05, 0.4, 0.9]), 1e-6
    for function, slope in ((time.sigma, time.sigma_slope), (time.scale, time.scale_slope)):
        np.testing.assert_allclose(slope(t), (function(t + small) - function(t - small)) / (2 * small), rtol=1e-5)
    np.testing.assert_allclose(time.of_sigma(time.sigma(t)), t, rtol=1e-9)


def test_a_models_own_defaults_stand_in_its_solvers() -> None:
    schedule = {**EDM, "solvers": ["heun", "euler"], "defaults": {"heun": {"churn": 40.0}}}
    chosen = families.solvers("karras", schedule)
    assert dict(chosen["heun"].defaults) == {"churn": 40.0}
    assert dict(chosen["euler"].defaults) == {"churn": 0.0}
    with pytest.raises(ValueError, match=r"churn = -1.* out of its range"):
        families.solvers("karras", {**schedule, "defaults": {"heun": {"churn": -1.0}}})
    with pytest.raises(KeyError):
        families.solvers("karras", {**schedule, "defaults": {"heun": {"eta": 1.0}}})
