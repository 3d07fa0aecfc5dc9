"""DDGAN's plans: as many steps as the generator was trained for, or fewer, by the posterior of a longer jump.

The schedule is `{"alphas_cumprod": [ᾱ_0, …, ᾱ_{T−1}]}` with T as small as 4.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from models.families import Point
from models.schedules import EDGE, Vector, visit
from models.solvers import Solver, posterior
from models.step import Plan


def large_steps(timesteps: int) -> Vector:
    """ᾱ = cos² φ at `timesteps` timesteps, float64, the angle φ growing evenly to that of DDIM's last: large β.

    With the paper's own (Xiao et al. 2022, arXiv 2112.07804, appendix C) three of four timesteps of so small an image
    are noise to the eye, and the discriminator can hardly tell the generator anything.
    """
    return np.cos(np.arange(1, timesteps + 1) / timesteps * np.arccos(EDGE)) ** 2


def max_steps(schedule: Mapping[str, Any]) -> int:
    """One step a timestep that the generator was trained for."""
    return len(schedule["alphas_cumprod"])


def posterior_plan(schedule: Mapping[str, Any], steps: int) -> Plan:
    return posterior(*visit(schedule["alphas_cumprod"], steps))


SOLVERS = {"posterior": Solver(posterior_plan, "draws from q(x_s | x_t, x0) with the generator's x0")}

POINTS = [Point("posterior", steps) for steps in (1, 2, 3, 4)]
