"""The latent family's plans: DDIM's solvers, and Langevin dynamics, in the space of normalised latents.

`models.discrete` describes the schedule; its `clip` bounds the latents.
"""

from models.discrete import Schedule, clip, max_steps, signal, solvers
from models.families import Point
from models.schedules import trailing_grid
from models.solvers import Setting, Solver, langevin
from models.step import Plan

__all__ = ["POINTS", "SOLVERS", "langevin_plan", "max_steps", "signal"]


def langevin_plan(schedule: Schedule, steps: int, *, step_size: float) -> Plan:
    """Langevin dynamics with one step at each of `steps` trailing timesteps."""
    return langevin(*trailing_grid(schedule["alphas_cumprod"], steps), step_size=step_size, clip=clip(schedule))


SOLVERS = {
    **solvers(default_eta=1.0, space=" on latents"),
    "langevin": Solver(
        langevin_plan,
        "annealed Langevin dynamics on latents: wants many steps",
        {"step_size": Setting(low=0.01, high=1.0, default=0.5)},
    ),
}

POINTS = [
    *(Point("ddim", steps, {"eta": 0.0}) for steps in (4, 6, 10, 20, 50, 100)),
    *(Point("ddim", steps, {"eta": 1.0}) for steps in (4, 6, 10, 20, 50)),
    *(Point("dpmpp_2m", steps) for steps in (4, 10, 20)),
    *(Point("unipc", steps) for steps in (4, 6, 10)),
    Point("deis", 4),
    Point("langevin", 100),
]
