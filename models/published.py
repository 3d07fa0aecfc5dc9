"""The samplers of published code, as tables that reproduce each of its steps. NumPy only.

Where that code computes a coefficient in float32 so that its rounding is seen, it is done so here.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.schedules import Vector
from models.solvers import ddim, posterior
from models.step import Plan, Step

UNCLIPPED = np.inf


def uniform_timesteps(timesteps: int, steps: int) -> NDArray[np.int64]:
    """Every (T // steps)-th timestep from 0 up, highest first; where that leaves a rest there are more than `steps`."""
    return np.arange(0, timesteps, timesteps // steps)[::-1]


def quadratic_timesteps(timesteps: int, steps: int) -> NDArray[np.int64]:
    """`steps` timesteps up to 0.8·T, whose roots are even (Song et al. 2020, arXiv 2010.02502), highest first.

    The lowest can be the same; a step between two such changes nothing.
    """
    return (np.linspace(0, np.sqrt(0.8 * timesteps), steps) ** 2).astype(np.int64)[::-1]


def ddim_generalized(alphas_cumprod: Vector, timesteps: NDArray[np.int64], *, eta: float) -> Plan:
    """`generalized_steps` of ermongroup/ddim: DDIM without clipping, at these timesteps and then at the data."""
    abar_t = alphas_cumprod[timesteps]
    abar_s = np.append(abar_t[1:], 1.0)
    return ddim(timesteps.astype(np.float64), abar_t, abar_s, eta=eta, clip=UNCLIPPED)


def ddpm_noisy(alphas_cumprod: Vector, timesteps: NDArray[np.int64]) -> Plan:
    """`ddpm_steps` of ermongroup/ddim: draws x_s given the clipped x0, with the variance β = 1 − ᾱ_t/ᾱ_s.

    Its mean is that of the posterior (Ho et al. 2020, arXiv 2006.11239, eq. 7). All of it is in float32 there.
    """
    abar_t = alphas_cumprod[timesteps].astype(np.float32)
    abar_s = np.append(abar_t[1:], np.float32(1.0))
    betas = 1 - abar_t / abar_s
    return _plan(
        t=timesteps,
        x0_from_x=np.sqrt(1 / abar_t),
        x0_from_out=-np.sqrt(1 / abar_t - 1),
        clip=1.0,
        x_from_x=np.sqrt(1 - betas) * (1 - abar_s) / (1 - abar_t),
        x_from_x0=np.sqrt(abar_s) * betas / (1 - abar_t),
        noise_std=np.sqrt(betas) * (timesteps > 0),
    )


def latent_ddim(alphas_cumprod: Vector, steps: int, *, eta: float) -> Plan:
    """The `DDIMSampler` of CompVis/latent-diffusion: timesteps one higher than uniform ones, and an end at ᾱ_0.

    Raises ValueError for more steps than the original can take: it reads ᾱ_T then.
    """
    timesteps = uniform_timesteps(len(alphas_cumprod), steps) + 1
    if timesteps[0] >= len(alphas_cumprod):
        raise ValueError(f"{steps} steps: latent diffusion's sampler takes at most {len(alphas_cumprod) // 2}")
    abar_t = alphas_cumprod[timesteps]
    abar_s = np.append(abar_t[1:], alphas_cumprod[0])
    return ddim(timesteps.astype(np.float64), abar_t, abar_s, eta=eta, clip=UNCLIPPED)


def ddgan(alphas_cumprod: Vector) -> Plan:
    """`sample_from_model` of NVlabs/denoising-diffusion-gan: a step a timestep, without clipping."""
    abar_t = alphas_cumprod[::-1]
    times = np.arange(len(abar_t), dtype=np.float64)[::-1]
    return posterior(times, abar_t, np.append(abar_t[1:], 1.0), clip=UNCLIPPED)


def vdm(gamma_t: Vector, gamma_s: Vector) -> Plan:
    """`VDM.sample` of google-research/vdm: its last step gives z_0, which is still to be decoded.

    With ᾱ = sigmoid(−γ), κ = −expm1(γ_s − γ_t):
    z_s = √(ᾱ_s/ᾱ_t)·(z_t − σ_t·κ·ε) + √((1 − ᾱ_s)·κ)·noise.
    """
    # JAX has it so, and 1 − ᾱ_s keeps two digits of it near the data.
    abar_s = (1 / (1 + np.exp(gamma_s.astype(np.float32)))).astype(np.float64)
    abar_t, sigma_t = 1 / (1 + np.exp(gamma_t)), np.sqrt(1 / (1 + np.exp(-gamma_t)))
    kappa = -np.expm1(gamma_s - gamma_t)
    gain = np.sqrt(abar_s / abar_t)
    return _plan(
        t=gamma_t,
        x0_from_x=1 / np.sqrt(abar_t),
        x0_from_out=-sigma_t / np.sqrt(abar_t),
        clip=UNCLIPPED,
        x_from_x=gain * (1 - kappa),  # z_t − σ_t·κ·ε = (1 − κ)·z_t + κ·α_t·x0
        x_from_x0=gain * kappa * np.sqrt(abar_t),
        noise_std=np.sqrt((1 - abar_s) * kappa),
    )


def _plan(clip: float, **columns: NDArray[Any]) -> Plan:
    """A plan from its columns, of which each step has a number."""
    rows = zip(*(column.astype(np.float64).tolist() for column in columns.values()), strict=True)
    return Plan(Step(clip=clip, **dict(zip(columns, row, strict=True))) for row in rows)
