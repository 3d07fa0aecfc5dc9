"""Noise schedules, and the timesteps at which a sampler evaluates the network. Float64; NumPy only."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

EDGE = 0.01  # σ at the first timestep and α at the last, so that 1/σ and 1/α stay finite


def cosine_schedule(timesteps: int) -> Vector:
    """ᾱ for `timesteps` training timesteps, float64: α_t = cos φ_t at evenly spaced angles φ_t.

    The cosine schedule (Nichol & Dhariwal 2021, arXiv 2102.09672, section 3.2) with σ = EDGE at the first timestep and
    α = EDGE at the last, so that 1/α is at most 100.
    """
    edge = np.arcsin(EDGE)
    return np.cos(np.linspace(edge, np.pi / 2 - edge, timesteps)) ** 2


def trailing_timesteps(timesteps: int, steps: int) -> NDArray[np.int64]:
    """The timesteps of a sampler's `steps` steps among `timesteps` training timesteps, highest first, (steps,) int64.

    Evenly spaced from the last one down, the "trailing" spacing of Lin et al. 2023 (arXiv 2305.08891, table 2):
    sampling starts at the strongest training noise for any number of steps. Raises ValueError for more steps than
    timesteps.
    """
    _check_steps(steps, timesteps)
    return np.round(np.linspace(timesteps, 0, steps, endpoint=False)).astype(np.int64) - 1


def log_snr_timesteps(alphas_cumprod: Vector, steps: int) -> NDArray[np.int64]:
    """As `trailing_timesteps`, but evenly spaced in λ = log(α/σ), half the log of the signal-to-noise ratio.

    DPM-Solver's own spacing (Lu et al. 2022, arXiv 2206.00927, "step size schedule"), rounded to the nearest timesteps
    that give every step a timestep of its own.
    """
    _check_steps(steps, len(alphas_cumprod))
    log_snr = 0.5 * np.log(alphas_cumprod / (1 - alphas_cumprod))
    targets = np.linspace(log_snr[-1], log_snr[0], steps, endpoint=False)
    nearest = np.abs(log_snr - targets[:, None]).argmin(axis=1)
    after = np.arange(steps)[::-1]  # the number of steps after each
    return np.minimum.accumulate(np.maximum(nearest, after) - after) + after


def _check_steps(steps: int, timesteps: int) -> None:
    if not 1 <= steps <= timesteps:
        raise ValueError(f"{steps} steps: this schedule has plans of 1 to {timesteps}")


class Grid(NamedTuple):
    """Where a sampler's steps start and end, each of shape (steps,). The last step ends at the data, where ᾱ = 1."""

    t: Vector
    abar_t: Vector
    abar_s: Vector


def grid_at(alphas_cumprod: Sequence[float], timesteps: NDArray[np.int64]) -> Grid:
    """Steps that start at these timesteps."""
    abar_t = np.asarray(alphas_cumprod, dtype=np.float64)[timesteps]
    return Grid(timesteps.astype(np.float64), abar_t, np.append(abar_t[1:], 1.0))


def trailing_grid(alphas_cumprod: Sequence[float], steps: int) -> Grid:
    """Steps at trailing timesteps of a schedule of ᾱ by timestep."""
    return grid_at(alphas_cumprod, trailing_timesteps(len(alphas_cumprod), steps))


def log_snr_grid(alphas_cumprod: Sequence[float], steps: int) -> Grid:
    """Steps at timesteps evenly spaced in the log of the signal-to-noise ratio."""
    return grid_at(alphas_cumprod, log_snr_timesteps(np.asarray(alphas_cumprod, dtype=np.float64), steps))
