"""DDIM's plans: any number of steps up to the training timesteps. `models.discrete` describes the schedule."""

from models.discrete import max_steps, signal, solvers
from models.families import Point

__all__ = ["POINTS", "SOLVERS", "max_steps", "signal"]

SOLVERS = solvers(default_eta=0.0)

POINTS = [
    *(Point("ddim", steps, {"eta": 0.0}) for steps in (4, 10, 20, 50, 100)),
    *(Point("ddim", steps, {"eta": 1.0}) for steps in (4, 10, 20, 50)),
    *(Point("dpmpp_2m", steps) for steps in (4, 6, 10, 15, 20)),
]
