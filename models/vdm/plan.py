"""VDM's plans, on its learned schedule.

The schedule is `{"gamma": [γ(0), …, γ(1)]}`: γ = −log SNR at evenly spaced times, rising, and linear between them. A
plan's t is γ_t, the time that the network gets.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from models import published
from models.bound import Bound, ContinuousBound
from models.families import Point
from models.schedules import Grid, Vector
from models.solvers import Setting, Solver, ancestral, ddim, deis, dpmpp_2m, dpmpp_3m, heun, unipc
from models.step import Plan


def max_steps(schedule: Mapping[str, Any]) -> int:
    """One step for each interval between knots of the schedule. Raises ValueError for a schedule that does not rise."""
    gamma = np.asarray(schedule["gamma"], dtype=np.float64)
    if gamma.ndim != 1 or len(gamma) < 2 or not (np.diff(gamma) > 0).all() or not (np.abs(gamma) < 100).all():
        raise ValueError("noise_schedule: gamma does not rise from above -100 to below 100")
    return len(gamma) - 1


def signal(_: Mapping[str, Any], plan: Plan) -> tuple[Vector, Vector]:
    """α and σ of the state at the start of each step."""
    gamma = np.array([k.t for k in plan])
    return np.sqrt(1 / (1 + np.exp(gamma))), np.sqrt(1 / (1 + np.exp(-gamma)))


def gammas(schedule: Mapping[str, Any], steps: int) -> tuple[Vector, Vector]:
    """γ_t and γ_s of each step from t = 1 to 0, evenly spaced in t."""
    knots = np.asarray(schedule["gamma"], dtype=np.float64)
    gamma = np.interp(np.linspace(1, 0, steps + 1), np.linspace(0, 1, len(knots)), knots)
    return gamma[:-1], gamma[1:]


def ancestral_plan(schedule: Mapping[str, Any], steps: int) -> Plan:
    return ancestral(*gammas(schedule, steps))


def ddim_plan(schedule: Mapping[str, Any], steps: int, *, eta: float) -> Plan:
    return ddim(*_grid(schedule, steps), eta=eta)


def dpmpp_2m_plan(schedule: Mapping[str, Any], steps: int) -> Plan:
    return dpmpp_2m(*_grid(schedule, steps))


def dpmpp_3m_plan(schedule: Mapping[str, Any], steps: int) -> Plan:
    return dpmpp_3m(*_grid(schedule, steps))


def unipc_plan(schedule: Mapping[str, Any], steps: int) -> Plan:
    return unipc(*_grid(schedule, steps))


def deis_plan(schedule: Mapping[str, Any], steps: int) -> Plan:
    return deis(*_grid(schedule, steps))


def heun_plan(schedule: Mapping[str, Any], steps: int) -> Plan:
    return heun(*_grid(schedule, steps))


def _grid(schedule: Mapping[str, Any], steps: int) -> Grid:
    """Steps that start at γ_t; the last one ends at the data, where ᾱ = 1."""
    gamma_t, gamma_s = gammas(schedule, steps)
    abar_s = 1 / (1 + np.exp(gamma_s))
    abar_s[-1] = 1.0
    return Grid(gamma_t, 1 / (1 + np.exp(gamma_t)), abar_s)


def sample_plan(schedule: Mapping[str, Any], steps: int) -> Plan:
    return published.vdm(*gammas(schedule, steps))


def bound(schedule: Mapping[str, Any]) -> Bound:
    return ContinuousBound(np.asarray(schedule["gamma"], dtype=np.float64))


SOLVERS = {
    "ancestral": Solver(ancestral_plan, "VDM's ancestral sampling on its learned schedule"),
    "sample": Solver(sample_plan, "the original code's ancestral sampling, unclipped, for models that decode z_0"),
    "ddim": Solver(
        ddim_plan,
        "DDIM on the learned schedule; eta = 0 is deterministic",
        {"eta": Setting(low=0.0, high=1.0, default=0.0)},
    ),
    "dpmpp_2m": Solver(dpmpp_2m_plan, "DPM-Solver++(2M) on the learned schedule, deterministic"),
    "dpmpp_3m": Solver(dpmpp_3m_plan, "DPM-Solver++(3M) on the learned schedule, deterministic"),
    "unipc": Solver(unipc_plan, "UniPC-3 on the learned schedule, deterministic"),
    "deis": Solver(deis_plan, "DEIS in data prediction on the learned schedule, deterministic"),
    "heun": Solver(heun_plan, "EDM's Heun on the learned schedule, deterministic: 2·steps − 1 evaluations"),
}

POINTS = [
    *(Point("ancestral", steps) for steps in (4, 10, 20, 50, 100)),
    *(Point("dpmpp_2m", steps) for steps in (4, 10, 20)),
    *(Point("unipc", steps) for steps in (4, 10)),
]
