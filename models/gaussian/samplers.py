"""The formats' own samplers: which timesteps they visit, and which update they have there. NumPy only."""

from collections.abc import Callable, Mapping

import numpy as np

from models.gaussian.chain import (
    TINY,
    Chain,
    Timesteps,
    ancestral,
    clipped_variance,
    ddim,
    posterior_variance,
)
from models.published import ddpm_noisy, quadratic_timesteps, uniform_timesteps
from models.schedules import Vector, trailing_timesteps
from models.step import Plan


def respaced(timesteps: int, steps: int) -> Timesteps:
    """`space_timesteps(T, "N")` of improved-diffusion: from 0 to T − 1, the sum of strides rounded half to even."""
    stride = (timesteps - 1) / (steps - 1) if steps > 1 else 1
    position, visited = 0.0, []
    for _ in range(steps):
        visited.append(round(position))
        position += stride
    return np.array(visited[::-1], dtype=np.int64)


def strided(timesteps: int, steps: int) -> Timesteps:
    """`space_timesteps(T, "ddimN")`: a whole stride, where one has so many steps; else as `respaced`."""
    stride = next((each for each in range(1, timesteps) if len(range(0, timesteps, each)) == steps), None)
    return respaced(timesteps, steps) if stride is None else np.arange(0, timesteps, stride)[::-1]


def openai_ddim(chain: Chain, steps: int, eta: float) -> Plan:
    timesteps = strided(len(chain.times), steps)
    return ddim(chain, timesteps, chain.ends(timesteps), eta)


def openai_ddpm(chain: Chain, steps: int) -> Plan:
    timesteps = respaced(len(chain.times), steps)
    ends = chain.ends(timesteps)
    return ancestral(chain, timesteps, ends, least=clipped_variance(ends))


def lucidrains_ddim(chain: Chain, steps: int, eta: float) -> Plan:
    """Times are torch.linspace(−1, T − 1, N + 1) in float32, whole parts."""
    timesteps = np.trunc(float_range(len(chain.times), steps)).astype(np.int64)[::-1][:-1]
    return ddim(chain, timesteps, chain.ends(timesteps), eta)


def float_range(timesteps: int, steps: int) -> Vector:
    """torch.linspace(−1, T − 1, N + 1), which counts from both ends in float32."""
    stride = np.float32(timesteps) / np.float32(steps)
    index = np.arange(steps + 1, dtype=np.float32)
    upward, downward = np.float32(-1) + stride * index, np.float32(timesteps - 1) - stride * (steps - index)
    return np.where(index < (steps + 1) // 2, upward, downward).astype(np.float64)


def trailing_posterior(chain: Chain, steps: int) -> Plan:
    """The posterior at trailing timesteps; at all of them it is the sampler of lucidrains and of DDGAN."""
    timesteps = trailing_timesteps(len(chain.times), steps)
    ends = chain.ends(timesteps)
    return ancestral(chain, timesteps, ends, least=np.maximum(posterior_variance(ends), TINY))


def ermongroup_timesteps(chain: Chain, steps: int) -> Timesteps:
    spacing = quadratic_timesteps if chain.settings.get("spacing") == "quadratic" else uniform_timesteps
    return spacing(len(chain.times), steps)


def ermongroup_ddim(chain: Chain, steps: int, eta: float) -> Plan:
    timesteps = ermongroup_timesteps(chain, steps)
    return ddim(chain, timesteps, chain.ends(timesteps), eta)


def ermongroup_ddpm(chain: Chain, steps: int) -> Plan:
    return ddpm_noisy(chain.alphas_cumprod, ermongroup_timesteps(chain, steps))


def latent_ddim(chain: Chain, steps: int, eta: float) -> Plan:
    """`DDIMSampler` of CompVis/latent-diffusion: timesteps one higher than uniform ones, and an end at ᾱ_0."""
    timesteps = np.minimum(uniform_timesteps(len(chain.times), steps) + 1, len(chain.times) - 1)
    abar_t = chain.alphas_cumprod[timesteps]
    return ddim(chain, timesteps, (abar_t, np.append(abar_t[1:], chain.alphas_cumprod[0])), eta)


def diffusers_timesteps(chain: Chain, steps: int) -> Timesteps:
    """By `timestep_spacing` and `steps_offset` (Lin et al. 2023, arXiv 2305.08891, table 2)."""
    timesteps = len(chain.times)
    match chain.settings.get("timestep_spacing", "leading"):
        case "linspace":
            return np.linspace(0, timesteps - 1, steps).round()[::-1].astype(np.int64)
        case "trailing":
            return np.round(np.arange(timesteps, 0, -timesteps / steps)).astype(np.int64)[:steps] - 1
    leading = np.arange(0, steps) * (timesteps // steps) + chain.settings.get("steps_offset", 0)
    return np.minimum(leading, timesteps - 1)[::-1]


def diffusers_ddim(chain: Chain, steps: int, eta: float) -> Plan:
    """Each step goes T // N timesteps down, and the last to ᾱ_0 or to the data; ε is the network's own."""
    timesteps = diffusers_timesteps(chain, steps)
    before = timesteps - len(chain.times) // steps
    last = 1.0 if chain.settings.get("set_alpha_to_one", True) else chain.alphas_cumprod[0]
    abar_s = np.where(before >= 0, chain.alphas_cumprod[before], last)
    return ddim(chain, timesteps, (chain.alphas_cumprod[timesteps], abar_s), eta, own=True)


def diffusers_ddpm(chain: Chain, steps: int) -> Plan:
    timesteps = diffusers_timesteps(chain, steps)
    ends = chain.ends(timesteps)
    return ancestral(chain, timesteps, ends, least=np.maximum(posterior_variance(ends), TINY))


OPENAI = ("improved-diffusion", "guided-diffusion", "dit")
DDIM: Mapping[str, Callable[[Chain, int, float], Plan]] = {
    **dict.fromkeys(OPENAI, openai_ddim),
    "denoising-diffusion-pytorch": lucidrains_ddim,
    "ddim": ermongroup_ddim,
    "latent-diffusion": latent_ddim,
    "diffusers": diffusers_ddim,
}
DDPM: Mapping[str, Callable[[Chain, int], Plan]] = {
    **dict.fromkeys(OPENAI, openai_ddpm),
    "denoising-diffusion-pytorch": trailing_posterior,
    "ddim": ermongroup_ddpm,
    "diffusers": diffusers_ddpm,
}
