"""DDIM's plans: any number of steps up to the training timesteps, by two solvers.

The schedule is `{"alphas_cumprod": [ᾱ_0, …, ᾱ_{T−1}]}`, falling from nearly 1 (data) to nearly 0 (noise).
"""

from collections.abc import Mapping
from typing import Any

from models.families import Point
from models.schedules import visit, visit_by_log_snr
from models.solvers import Setting, Solver, ddim, dpmpp_2m
from models.step import Plan


def max_steps(schedule: Mapping[str, Any]) -> int:
    """One step a training timestep."""
    return len(schedule["alphas_cumprod"])


def ddim_plan(schedule: Mapping[str, Any], steps: int, *, eta: float) -> Plan:
    return ddim(*visit(schedule["alphas_cumprod"], steps), eta=eta)


def dpmpp_2m_plan(schedule: Mapping[str, Any], steps: int) -> Plan:
    return dpmpp_2m(*visit_by_log_snr(schedule["alphas_cumprod"], steps))


SOLVERS = {
    "ddim": Solver(
        ddim_plan,
        "DDIM; eta = 0 is deterministic, eta = 1 is DDPM's ancestral sampling",
        {"eta": Setting(low=0.0, high=1.0, default=0.0)},
    ),
    "dpmpp_2m": Solver(dpmpp_2m_plan, "DPM-Solver++(2M), second order, deterministic"),
}

POINTS = [
    *(Point("ddim", steps, {"eta": 0.0}) for steps in (4, 10, 20, 50, 100)),
    *(Point("ddim", steps, {"eta": 1.0}) for steps in (4, 10, 20, 50)),
    *(Point("dpmpp_2m", steps) for steps in (4, 6, 10, 15, 20)),
]
