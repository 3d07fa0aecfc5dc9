"""Noise levels of plans, plans backwards, and plans that begin in their middle."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMInverseScheduler

from models import families
from models.inversion import begun_at, inverse, is_invertible
from models.schedules import Vector, cosine_schedule
from models.solvers import ddim, dpmpp_2m
from models.step import Plan, Step, update

VP = {"alphas_cumprod": cosine_schedule(1000).tolist()}
GAUSSIAN = {**VP, "format": "guided-diffusion", "prediction": "v", "variance": "fixed_small", "solvers": ["ddim"]}
EDM = {
    "format": "edm",
    "preconditioning": {"kind": "edm", "sigma_data": 0.5},
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    "rho": 7,
    "range": [0.002, 80.0],
}
CASES: list[tuple[str, dict[str, Any], str, dict[str, float]]] = [
    ("ddim", VP, "ddim", {"eta": 0.0}),
    ("ddim", VP, "ddim", {"eta": 0.7}),
    ("ddim", VP, "dpmpp_2m", {}),
    ("latent", {**VP, "clip": 5.0}, "ddim", {"eta": 1.0}),
    ("ddgan", {"alphas_cumprod": [0.9, 0.5, 0.1, 0.01]}, "posterior", {}),
    ("vdm", {"gamma": np.linspace(-12, 6, 101).tolist()}, "ancestral", {}),
    ("vdm", {"gamma": np.linspace(-12, 6, 101).tolist()}, "ddim", {"eta": 0.0}),
    ("gaussian", GAUSSIAN, "ddim", {"eta": 0.0}),
    ("karras", EDM, "euler", {"churn": 0.0}),
    ("karras", EDM, "ancestral", {}),
    ("karras", {**EDM, "preconditioning": {"kind": "ve"}}, "euler", {"churn": 0.0}),
]


@pytest.mark.parametrize(("family", "schedule", "solver", "settings"), CASES)
def test_a_step_takes_a_state_of_its_level_to_one_of_the_next(
    family: str, schedule: dict[str, Any], solver: str, settings: dict[str, float]
) -> None:
    """With x = α·x0 + σ·ε at its start and x0 predicted right, its end has the α and the variance of the next start."""
    module: Any = families.find(family)
    plan = module.SOLVERS[solver].plan(schedule, 4, **settings)
    alpha, sigma = module.signal(schedule, plan)
    for i, k in enumerate(plan[:-1]):
        signal = k.x_from_x * alpha[i] + k.x_from_x0 + k.x_from_x0_prev
        variance = (k.x_from_x * sigma[i]) ** 2 + k.noise_std**2
        assert signal == pytest.approx(alpha[i + 1], rel=1e-6)
        assert variance == pytest.approx(sigma[i + 1] ** 2, rel=1e-6)
    last = plan[-1]
    assert last.x_from_x * alpha[-1] + last.x_from_x0 + last.x_from_x0_prev == pytest.approx(1, rel=1e-4)
    assert np.hypot(alpha[0], sigma[0]) == pytest.approx(1, rel=0.03)  # x_T is unit noise


def ddim_of(steps: int) -> Plan:
    timesteps = np.round(np.arange(1000, 0, -1000 / steps)).astype(np.int64) - 1
    abar = cosine_schedule(1000)[timesteps]
    return ddim(timesteps.astype(np.float64), abar, np.append(abar[1:], 1.0), clip=np.inf)


def test_the_first_of_each_two_steps_backwards_is_that_of_diffusers() -> None:
    abar = cosine_schedule(1000)
    scheduler = DDIMInverseScheduler(
        trained_betas=1 - abar / np.append(1.0, abar[:-1]), clip_sample=False, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(10)
    plan = inverse(ddim_of(10))
    assert [k.t for k in plan[::2]] == [k.t for k in plan[1::2]] == scheduler.timesteps.tolist()
    rng = np.random.default_rng(0)
    for k, t in zip(plan[::2], scheduler.timesteps, strict=True):
        x, out = rng.standard_normal((2, 1, 1, 4, 4))
        theirs = scheduler.step(torch.from_numpy(out), t, torch.from_numpy(x)).prev_sample
        np.testing.assert_allclose(update(k, x, out, 0.0, 0.0)[0], theirs.numpy(), rtol=1e-6, atol=1e-6)


def run(plan: Plan, x: Vector, network: Callable[[Vector, float], Vector]) -> Vector:
    x0 = np.zeros_like(x)
    for k in plan:
        x, x0 = update(k, x, network(k.network_from_x * x, k.t), x0, 0.0)
    return x


@pytest.mark.parametrize("family", ["ddim", "karras"])
def test_backwards_and_forwards_gives_the_image_back_and_better_with_the_second_step(family: str) -> None:
    def network(x: Vector, t: float) -> Vector:
        return np.tanh(x * (1 + np.cos(t)) / 2)

    module: Any = families.find(family)
    solver, schedule = ("euler", EDM) if family == "karras" else ("ddim", VP)
    settings = {name: setting.low for name, setting in module.SOLVERS[solver].settings.items()}
    clipped = module.SOLVERS[solver].plan(schedule, 50, **settings)
    plan = Plan((k._replace(clip=np.inf) for k in clipped), clipped.start_std)
    image = np.random.default_rng(0).uniform(-1, 1, (1, 8, 8))
    backwards = inverse(plan)
    errors = [
        np.abs(run(plan, run(each, image, network), network) - image).max()
        for each in (backwards, Plan(backwards[::2]))
    ]
    assert errors[0] < errors[1] / 2
    assert errors[0] < 0.1


def test_only_steps_without_noise_and_memory_can_be_run_backwards() -> None:
    assert is_invertible(ddim_of(4))
    assert not is_invertible(dpmpp_2m(*np.array([[900.0, 500.0, 100.0], [0.1, 0.5, 0.9], [0.5, 0.9, 1.0]])))
    assert not is_invertible([Step(t=0.0, noise_std=0.1)])


def test_a_plan_that_begins_in_its_middle_begins_in_first_order() -> None:
    abar = cosine_schedule(1000)[[999, 600, 300, 100]]
    whole = dpmpp_2m(np.array([999.0, 600, 300, 100]), abar, np.append(abar[1:], 1.0))
    rest = dpmpp_2m(np.array([600.0, 300, 100]), abar[1:], np.append(abar[2:], 1.0))
    begun = begun_at(np.array(whole, dtype=np.float32), 1)
    np.testing.assert_allclose(begun, np.array(rest, dtype=np.float32), rtol=1e-6)
