"""The plans against diffusers' schedulers, step by step and whole runs."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from diffusers.schedulers import scheduling_ddim, scheduling_ddpm, scheduling_dpmsolver_multistep
from torch import Tensor

from models.discrete import ddim_plan, dpmpp_2m_plan
from models.schedules import Vector, log_snr_grid, log_snr_timesteps, trailing_timesteps
from models.solvers import ddim, dpmpp_2m
from models.step import Plan, update
from tests.models.test_solvers import ABAR, COUNTS, SCHEDULE, SHAPE, T, visited

# DPMSolverMultistepScheduler makes a NumPy array of a tensor in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def assert_close(actual: Any, expected: Any, tolerance: float) -> None:
    """Equal to within `tolerance` of the largest value expected."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


@pytest.fixture
def diffusers_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers' code as it is, with float64 wherever it says float32: its own 1 − β loses up to 1e-4 in float32."""
    for module in (scheduling_ddim, scheduling_ddpm, scheduling_dpmsolver_multistep):
        monkeypatch.setattr(module, "torch", SimpleNamespace(**{**vars(torch), "float32": torch.float64}))
        monkeypatch.setattr(module, "np", SimpleNamespace(**{**vars(np), "float32": np.float64}))


def diffusers_scheduler(kind: Callable[..., Any], abar: Vector, steps: int, **config: Any) -> Any:
    betas = 1 - abar / np.append(1.0, abar[:-1])
    scheduler = kind(num_train_timesteps=len(abar), trained_betas=betas, timestep_spacing="trailing", **config)
    if "solver_order" in config:
        scheduler.set_timesteps(timesteps=log_snr_timesteps(abar, steps).tolist())
    else:
        scheduler.set_timesteps(steps)
    return scheduler


def schedule_for(steps: int) -> Vector:
    """The schedule to give diffusers for a plan of `steps`.

    DDIMScheduler takes t − T // steps for where a step ends, which is not the next timestep when `steps` does not
    divide T. There it gets the visited timesteps alone, and visits them all: a step depends only on ᾱ at its two ends.
    """
    return ABAR if T % steps == 0 else ABAR[trailing_timesteps(T, steps)][::-1]


def assert_steps_equal(plan: Plan, scheduler: Any, step: Callable[..., tuple[Tensor, Tensor]]) -> None:
    """Each step, on random inputs in float64 and float32, gives the x and x0 of diffusers' `step(t, x, out, noise)`."""
    generator = torch.Generator().manual_seed(len(plan))
    x0s = {torch.float64: torch.zeros(SHAPE, dtype=torch.float64), torch.float32: torch.zeros(SHAPE)}
    for k, t in zip(plan, scheduler.timesteps.tolist(), strict=True):
        x, out, noise = torch.randn((3, *SHAPE), generator=generator).double()
        expected_x, expected_x0 = step(t, x, out, noise)
        for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
            x_new, x0s[dtype] = update(k, x.to(dtype), out.to(dtype), x0s[dtype], noise.to(dtype))
            assert x_new.dtype == dtype
            assert_close(x_new, expected_x, tolerance)
            assert_close(x0s[dtype], expected_x0, tolerance)


@pytest.mark.usefixtures("diffusers_in_float64")
@pytest.mark.parametrize(("eta", "clip"), [(0.0, 1.0), (0.0, np.inf), (0.3, 1.0), (1.0, 1.0)])
@pytest.mark.parametrize("steps", COUNTS)
def test_each_ddim_step_equals_that_of_diffusers(steps: int, eta: float, clip: float) -> None:
    scheduler = diffusers_scheduler(DDIMScheduler, schedule_for(steps), steps, clip_sample=np.isfinite(clip))

    def step(t: int, x: Tensor, out: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        result = scheduler.step(out, t, x, eta=eta, use_clipped_model_output=True, variance_noise=noise)
        return result.prev_sample, result.pred_original_sample

    assert_steps_equal(ddim(*visited(steps), eta=eta, clip=clip), scheduler, step)


@pytest.mark.usefixtures("diffusers_in_float64")
@pytest.mark.parametrize("clip", [1.0, np.inf])
@pytest.mark.parametrize("steps", COUNTS)
def test_ddim_with_eta_1_takes_the_steps_of_ddpm(steps: int, clip: float, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = diffusers_scheduler(DDPMScheduler, schedule_for(steps), steps, clip_sample=np.isfinite(clip))

    def step(t: int, x: Tensor, out: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        # It draws the noise itself, and adds its least noise, 1e-10, in a last step that does not begin at t = 0.
        last = t == scheduler.timesteps[-1]
        monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *_, **__: 0 * noise if last else noise)
        result = scheduler.step(out, t, x)
        return result.prev_sample, result.pred_original_sample

    assert_steps_equal(ddim(*visited(steps), eta=1.0, clip=clip), scheduler, step)


@pytest.mark.usefixtures("diffusers_in_float64")
@pytest.mark.parametrize("clip", [1.0, np.inf])
@pytest.mark.parametrize("steps", COUNTS)
def test_each_dpmpp_2m_step_equals_that_of_diffusers(steps: int, clip: float) -> None:
    # Its thresholding with sample_max_value = 1, the default, is clipping to [-1, 1].
    options = {"algorithm_type": "dpmsolver++", "solver_order": 2, "thresholding": np.isfinite(clip)}
    scheduler = diffusers_scheduler(DPMSolverMultistepScheduler, ABAR, steps, **options)

    def step(t: int, x: Tensor, out: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return scheduler.step(out, t, x).prev_sample, scheduler.model_outputs[-1]

    assert_steps_equal(dpmpp_2m(*log_snr_grid(SCHEDULE["alphas_cumprod"], steps), clip=clip), scheduler, step)


@pytest.mark.parametrize("steps", COUNTS)
def test_the_timesteps_are_those_of_diffusers_trailing_spacing(steps: int) -> None:
    expected = diffusers_scheduler(DDIMScheduler, ABAR, steps).timesteps.tolist()
    assert [k.t for k in ddim_plan(SCHEDULE, steps, eta=0.0)] == expected


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 10, 20])
def test_the_timesteps_of_dpmpp_2m_are_those_of_diffusers_lu_lambdas(steps: int) -> None:
    scheduler = diffusers_scheduler(DPMSolverMultistepScheduler, ABAR, steps, use_lu_lambdas=True)
    scheduler.set_timesteps(steps + 1)  # its last is the first timestep, where ours is at the data
    expected = scheduler.timesteps.tolist()[:-1]
    assert [k.t for k in dpmpp_2m_plan(SCHEDULE, steps)] == pytest.approx(expected, abs=1)  # rounded in λ, and in t


@pytest.mark.parametrize(
    ("plan", "kind", "config", "options"),
    [
        (ddim_plan(SCHEDULE, 20, eta=0.0), DDIMScheduler, {}, {"eta": 0.0, "use_clipped_model_output": True}),
        (ddim_plan(SCHEDULE, 20, eta=0.5), DDIMScheduler, {}, {"eta": 0.5, "use_clipped_model_output": True}),
        (dpmpp_2m_plan(SCHEDULE, 20), DPMSolverMultistepScheduler, {"solver_order": 2, "thresholding": True}, {}),
    ],
    ids=["ddim", "ddim with noise", "dpmpp_2m"],
)
def test_a_whole_run_in_float32_equals_that_of_an_untouched_diffusers(
    plan: Plan, kind: Callable[..., Any], config: dict[str, Any], options: dict[str, Any]
) -> None:
    scheduler = diffusers_scheduler(kind, ABAR, len(plan), **config)
    generator = torch.Generator().manual_seed(0)
    x = expected = torch.randn(SHAPE, generator=generator)
    x0 = torch.zeros(SHAPE)
    for k, t in zip(plan, scheduler.timesteps.tolist(), strict=True):
        noise = torch.randn(SHAPE, generator=generator)
        x, x0 = update(k, x, torch.sin(x + k.t), x0, noise)
        expected = scheduler.step(torch.sin(expected + t), t, expected, variance_noise=noise, **options).prev_sample
    assert_close(x, expected, 1e-4)  # for the digits that its schedule loses in float32
