"""DDGAN's plans: the steps that the generator was trained for, or fewer of them, by the posterior of a longer jump.

The schedule is `{"alphas_cumprod": [ᾱ_0, …, ᾱ_{T−1}]}` with T as small as 4.
"""

import numpy as np

from models.discrete import Schedule, max_steps, signal
from models.families import Point
from models.schedules import EDGE, Vector, trailing_grid
from models.solvers import Solver, posterior
from models.step import Plan

__all__ = ["POINTS", "SOLVERS", "large_steps", "max_steps", "posterior_plan", "signal"]


def large_steps(timesteps: int) -> Vector:
    """ᾱ = cos² φ at `timesteps` timesteps, float64, at evenly spaced angles φ up to that of DDIM's last timestep.

    With the paper's own schedule (Xiao et al. 2022, arXiv 2112.07804, appendix C), small images look like noise at
    three of four timesteps. Then the generator can learn little from the discriminator.
    """
    return np.cos(np.arange(1, timesteps + 1) / timesteps * np.arccos(EDGE)) ** 2


def posterior_plan(schedule: Schedule, steps: int) -> Plan:
    """Posterior sampling at trailing timesteps. Raises ValueError for more steps than timesteps."""
    return posterior(*trailing_grid(schedule["alphas_cumprod"], steps))


SOLVERS = {"posterior": Solver(posterior_plan, "draws from q(x_s | x_t, x0) with the generator's x0")}

POINTS = [Point("posterior", steps) for steps in (1, 2, 3, 4)]
