"""Noise levels σ that samplers visit, and the parametrisations of their time. Float64 unless said; NumPy only.

A schedule says x̃ = s(t)·(x0 + σ(t)·ε) (Karras et al. 2022, arXiv 2206.00364, section 2 and table 1).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from models.karras.preconditioning import nearest_level
from models.schedules import Vector

EPSILON_S = 1e-3  # where the variance-preserving baseline ends
FIRST_VP = (19.9, 0.1)  # its β_d and β_min, as Song et al. 2021 trained
IDDPM_STEPS, LEAST_RATIO, OFFSET = 1000, 0.001, 0.008  # M, C_1 and C_2 of table 1


class Time(NamedTuple):
    """σ(t), its derivative and its inverse, and the scale s(t) with its derivative."""

    sigma: Callable[[Vector], Vector]
    sigma_slope: Callable[[Vector], Vector]
    of_sigma: Callable[[Vector], Vector]
    scale: Callable[[Vector], Vector]
    scale_slope: Callable[[Vector], Vector]


def falling(sigma_min: float, sigma_max: float, rho: float, steps: int, dtype: Any = np.float64) -> Vector:
    """Eq. 5: `steps` levels from σ_max to σ_min, even in σ^(1/ρ)."""
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    root = dtype(high) + even(steps, dtype) * dtype(low - high)
    levels: Vector = (root.astype(np.float64) ** rho).astype(dtype).astype(np.float64)
    return levels


def even(steps: int, dtype: Any) -> Any:
    """`steps` numbers from 0 to 1, counted from both ends as torch.linspace does: float32 shows it."""
    stride, index = float(dtype(1 / max(steps - 1, 1))), np.arange(steps, dtype=np.float64)
    upper = (index >= steps // 2) & (index > 0)
    return np.where(upper, 1 - stride * (steps - 1 - index), stride * index).astype(dtype)


def known(sigma: Vector, levels: Vector | None) -> Vector:
    """σ, or the nearest that the network knows where it knows only `levels`."""
    if levels is None:
        return sigma
    nearest: Vector = levels[nearest_level(sigma, levels)]
    return nearest


def identity() -> Time:
    """The paper's own: σ(t) = t and s = 1."""
    return Time(np.array, np.ones_like, np.array, np.ones_like, np.zeros_like)


def exploding() -> Time:
    """VE: σ(t) = √t and s = 1."""
    return Time(np.sqrt, lambda t: 0.5 / np.sqrt(t), np.square, np.ones_like, np.zeros_like)


def preserving(beta_d: float, beta_min: float) -> Time:
    """VP: σ(t) = √(exp(½·β_d·t² + β_min·t) − 1) and s = 1/√(1 + σ²)."""

    def sigma(t: Vector) -> Vector:
        return np.sqrt(np.expm1(0.5 * beta_d * t**2 + beta_min * t))

    def sigma_slope(t: Vector) -> Vector:
        return 0.5 * (beta_min + beta_d * t) * (sigma(t) + 1 / sigma(t))

    def of_sigma(levels: Vector) -> Vector:
        return (np.sqrt(beta_min**2 + 2 * beta_d * np.log1p(levels**2)) - beta_min) / beta_d

    def scale(t: Vector) -> Vector:
        return 1 / np.sqrt(1 + sigma(t) ** 2)

    def scale_slope(t: Vector) -> Vector:
        return -sigma(t) * sigma_slope(t) * scale(t) ** 3

    return Time(sigma, sigma_slope, of_sigma, scale, scale_slope)


def vp_baseline(least: float, largest: float, steps: int) -> tuple[Time, Vector]:
    """The time of the VP baseline and the σ of its steps, even in t; `least` and `largest` are the network's σ."""
    first = preserving(*FIRST_VP)
    ends = first.sigma(np.array([EPSILON_S, 1.0]))
    low, high = np.log1p(np.clip(ends, least, largest) ** 2)
    beta_d = 2 * (low / EPSILON_S - high) / (EPSILON_S - 1)
    time = preserving(beta_d, high - 0.5 * beta_d)
    return time, time.sigma(1 + np.linspace(0, 1, steps) * (EPSILON_S - 1))


def ve_baseline(least: float, largest: float, steps: int) -> tuple[Time, Vector]:
    """The same of VE: even in log σ, from 100 to 0.02."""
    low, high = max(0.02, least), min(100.0, largest)
    return exploding(), high * (low / high) ** np.linspace(0, 1, steps)


def iddpm_baseline(least: float, largest: float, steps: int) -> tuple[Time, Vector]:
    """The same of improved DDPM: a choice of the levels that its networks were trained at, by σ(t) = t."""
    levels = np.zeros(IDDPM_STEPS + 1)
    signal = np.sin(0.5 * np.pi * np.arange(IDDPM_STEPS + 1) / IDDPM_STEPS / (OFFSET + 1)) ** 2
    for j in range(IDDPM_STEPS, 0, -1):
        levels[j - 1] = np.sqrt((levels[j] ** 2 + 1) / max(signal[j - 1] / signal[j], LEAST_RATIO) - 1)
    chosen = levels[(levels >= max(0.002, least)) & (levels <= min(81.0, largest))]
    places = np.round((len(chosen) - 1) / max(steps - 1, 1) * np.arange(steps)).astype(np.int64)
    return identity(), chosen[places]


# By the network's least and largest σ, and a number of steps.
BASELINES: Mapping[str, Callable[[float, float, int], tuple[Time, Vector]]] = {
    "vp": vp_baseline,
    "ve": ve_baseline,
    "iddpm": iddpm_baseline,
}
