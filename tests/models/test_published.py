"""The published samplers' tables beside diffusers and the formulas of their papers. Parity is in tests/importers."""

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from models import published
from models.solvers import ancestral
from models.step import update

BETAS = np.linspace(1e-4, 0.02, 1000)
ALPHAS_CUMPROD = np.cumprod(1 - BETAS)


def test_noisy_ddpm_steps_are_those_of_diffusers_with_the_large_variance() -> None:
    scheduler = DDPMScheduler(trained_betas=BETAS, variance_type="fixed_large", clip_sample=True)
    scheduler.set_timesteps(20)
    plan = published.ddpm_noisy(ALPHAS_CUMPROD, published.uniform_timesteps(1000, 20))
    random = np.random.default_rng(0)
    for k, t in zip(plan, scheduler.timesteps, strict=True):
        x, out = random.normal(size=(2, 2, 1, 4, 4))
        noise = torch.randn((2, 1, 4, 4), generator=torch.Generator().manual_seed(7), dtype=torch.float64).numpy()
        generator = torch.Generator().manual_seed(7)
        expected = scheduler.step(torch.from_numpy(out), t, torch.from_numpy(x), generator=generator)
        assert k.t == t
        np.testing.assert_allclose(update(k, x, out, 0, noise)[0], expected.prev_sample, rtol=1e-4, atol=1e-5)


def test_uniform_timesteps_can_be_more_than_asked_for() -> None:
    assert published.uniform_timesteps(1000, 20).tolist() == list(range(950, -1, -50))
    assert len(published.uniform_timesteps(1000, 30)) == 31


def test_quadratic_timesteps_have_even_roots() -> None:
    """`skip_type: quad` of DDIM's code, for 5 steps."""
    assert published.quadratic_timesteps(1000, 5)[::-1].tolist() == [0, 50, 200, 450, 800]


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_step_between_two_same_timesteps_changes_nothing(eta: float) -> None:
    k, _ = published.ddim_generalized(ALPHAS_CUMPROD, np.array([500, 500]), eta=eta)
    x, out = np.random.default_rng(0).normal(size=(2, 8))
    np.testing.assert_allclose(update(k, x, out, 0, 1.0)[0], x)


def test_latent_diffusion_takes_at_most_half_its_timesteps() -> None:
    assert published.latent_ddim(ALPHAS_CUMPROD, 500, eta=0)[0].t == 999
    with pytest.raises(ValueError, match="at most 500"):
        published.latent_ddim(ALPHAS_CUMPROD, 501, eta=0)


def test_variational_steps_are_those_of_the_paper_while_float32_holds_their_variance() -> None:
    gamma = np.linspace(5.0, -3.0, 9)
    paper = ancestral(gamma[:-1], gamma[1:], clip=np.inf)[:-1]  # whose last step divides by α too
    np.testing.assert_allclose(published.vdm(gamma[:-1], gamma[1:])[:-1], paper, rtol=1e-5, atol=1e-12)
