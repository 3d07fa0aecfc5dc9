"""Noise schedules as the published code computes them, in float64 unless said."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch

from importers.imported import Discrete, Vector


def discrete(betas: Vector, times: Vector | None = None) -> Discrete:
    """The schedule with these β; the network takes `times`, or the timesteps themselves."""
    alphas_cumprod: Vector = np.cumprod(1 - betas, dtype=np.float64)
    return Discrete(betas, alphas_cumprod, np.arange(len(betas), dtype=np.float64) if times is None else times)


def single(betas: Vector) -> Discrete:
    """The same for code that goes on in float32 from these β."""
    rounded = torch.from_numpy(betas).float()
    alphas_cumprod = (1 - rounded).cumprod(0)
    return Discrete(rounded.double().numpy(), alphas_cumprod.double().numpy(), np.arange(len(betas), dtype=np.float64))


def linear(timesteps: int, start: float = 1e-4, end: float = 0.02) -> Vector:
    """β even from start to end (Ho et al. 2020, arXiv 2006.11239, section 4)."""
    return np.linspace(start, end, timesteps)


def cosine_signal(u: float) -> float:
    """ᾱ at u of 0 … 1 (Nichol & Dhariwal 2021, arXiv 2102.09672, eq. 17)."""
    return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2


def from_signal(timesteps: int, signal: Callable[[float], float], largest: float = 0.999) -> Vector:
    """β_i = 1 − ᾱ((i+1)/T)/ᾱ(i/T), at most `largest` (the same paper, section 3.2)."""
    u = [i / timesteps for i in range(timesteps + 1)]
    return np.array([min(1 - signal(s) / signal(t), largest) for t, s in itertools.pairwise(u)])
