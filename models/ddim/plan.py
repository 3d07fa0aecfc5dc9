"""DDIM's plans: any number of steps up to the training timesteps. `models.discrete` describes the schedule."""

import numpy as np

from models.bound import Bound, DiscreteBound
from models.discrete import Schedule, clip, max_steps, signal, solvers
from models.families import Point
from models.gaussian.chain import Chain

__all__ = ["POINTS", "SOLVERS", "bound", "max_steps", "signal"]


def bound(schedule: Schedule) -> Bound:
    """Of the ancestral sampler, eta = 1."""
    abar = np.asarray(schedule["alphas_cumprod"], dtype=np.float64)
    return DiscreteBound(Chain(abar, np.arange(float(len(abar))), "epsilon", "fixed_small", clip(schedule), {}))


SOLVERS = solvers(default_eta=0.0)

POINTS = [
    *(Point("ddim", steps, {"eta": 0.0}) for steps in (3, 4, 10, 20, 50, 100)),
    *(Point("ddim", steps, {"eta": 1.0}) for steps in (4, 10, 20, 50)),
    *(Point("dpmpp_2m", steps) for steps in (4, 6, 10, 15, 20)),
    *(Point("deis", steps) for steps in (3, 4, 6)),
    *(Point("unipc", steps) for steps in (3, 5, 6, 8, 10)),
    Point("heun", 10),
]
