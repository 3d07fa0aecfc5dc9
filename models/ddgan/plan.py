"""DDGAN's plans: as many steps as the generator was trained for, or fewer, by the posterior of a longer jump.

The schedule is `{"alphas_cumprod": [ᾱ_0, …, ᾱ_{T−1}]}` with T as small as 4.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from models.plan import Plan, Point, Solver, Vector, posterior, visit

BETA_MIN, BETA_MAX = 0.1, 20.0


def variance_preserving_schedule(timesteps: int) -> Vector:
    """ᾱ at `timesteps` even times up to 1, float64 (Xiao et al. 2022, arXiv 2112.07804, appendix C; Song et al. 2021).

    ᾱ(t) = exp(−β_min·t − ½(β_max − β_min)·t²): with few timesteps each β is large.
    """
    t = np.arange(1, timesteps + 1) / timesteps
    return np.exp(-BETA_MIN * t - 0.5 * (BETA_MAX - BETA_MIN) * t**2)


def max_steps(schedule: Mapping[str, Any]) -> int:
    """One step a timestep that the generator was trained for."""
    return len(schedule["alphas_cumprod"])


def posterior_plan(schedule: Mapping[str, Any], steps: int) -> Plan:
    return posterior(*visit(schedule["alphas_cumprod"], steps))


SOLVERS = {"posterior": Solver(posterior_plan, "draws from q(x_s | x_t, x0) with the generator's x0")}

POINTS = [Point("posterior", steps) for steps in (1, 2, 3, 4)]
