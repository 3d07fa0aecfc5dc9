"""Plans of models of noise levels σ, x = x0 + σ·ε: EDM's samplers, its baselines, and consistency sampling.

The schedule is `{"format", "solvers", "preconditioning": {"kind", …}, "sigma_min", "sigma_max", "rho"}`, and where they
matter `"range"` (the network's own σ, which bound the baselines), `"clip"` (the bound of x0), `"churn"` (S_min, S_max
and S_noise), and for consistency models `"scale_steps"` with `"ts"`, the published choice among them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from models.families import Point
from models.karras import levels, preconditioning, samplers
from models.karras.samplers import Denoiser, Stops
from models.schedules import Vector
from models.solvers import Setting, Solver
from models.step import Plan

Schedule = Mapping[str, Any]
MOST = 1000  # steps: there is a plan of any number


def max_steps(schedule: Schedule) -> int:
    """A consistency model has one fewer than noise levels."""
    return int(schedule["scale_steps"]) - 1 if "scale_steps" in schedule else MOST


def signal(schedule: Schedule, plan: Plan) -> tuple[Vector, Vector]:
    """α and σ of the state at the start of each step, which is α·(x0 + σ'·ε): c_noise and c_out have σ', and c_in α."""
    numbers = schedule["preconditioning"]
    if numbers["kind"] == "edm":
        level = np.exp(np.array([k.t for k in plan]) / numbers.get("noise_gain", 0.25))
    else:
        level = np.abs([k.x0_from_out for k in plan])
    alpha = preconditioning.of(numbers).c_in(level) / [k.network_from_x for k in plan]
    return alpha, alpha * level


def karras_stops(schedule: Schedule, steps: int, churn: float = 0.0) -> Stops:
    """Levels by eq. 5, each raised by `churn` (algorithm 2)."""
    # The code of consistency models has its levels in float32.
    dtype = np.float32 if schedule["format"] == "consistency-models" else np.float64
    sigma = levels.falling(schedule["sigma_min"], schedule["sigma_max"], schedule["rho"], steps, dtype)
    known = Denoiser.of(schedule).levels
    return samplers.stops(levels.identity(), sigma, known, churn, schedule.get("churn", {}))


def euler_plan(schedule: Schedule, steps: int, *, churn: float) -> Plan:
    return samplers.euler(Denoiser.of(schedule), karras_stops(schedule, steps, churn))


def heun_plan(schedule: Schedule, steps: int, *, churn: float) -> Plan:
    return samplers.heun(Denoiser.of(schedule), karras_stops(schedule, steps, churn))


def dpm_plan(schedule: Schedule, steps: int, *, churn: float) -> Plan:
    return samplers.midpoint(Denoiser.of(schedule), karras_stops(schedule, steps, churn))


def ancestral_plan(schedule: Schedule, steps: int) -> Plan:
    return samplers.euler_ancestral(Denoiser.of(schedule), karras_stops(schedule, steps))


def dpmpp_2m_plan(schedule: Schedule, steps: int) -> Plan:
    return samplers.dpmpp_2m(Denoiser.of(schedule), karras_stops(schedule, steps))


def dpmpp_3m_plan(schedule: Schedule, steps: int) -> Plan:
    return samplers.dpmpp_3m(Denoiser.of(schedule), karras_stops(schedule, steps))


def unipc_plan(schedule: Schedule, steps: int) -> Plan:
    return samplers.unipc(Denoiser.of(schedule), karras_stops(schedule, steps))


def deis_plan(schedule: Schedule, steps: int) -> Plan:
    return samplers.deis(Denoiser.of(schedule), karras_stops(schedule, steps))


def multistep_plan(schedule: Schedule, steps: int) -> Plan:
    factor = schedule.get("churn", {}).get("S_noise", 1.0)
    sigma = consistency_levels(schedule, steps)
    return samplers.consistency(Denoiser.of(schedule), sigma, schedule["sigma_min"], factor)


def consistency_levels(schedule: Schedule, steps: int) -> Vector:
    """τ_0 … τ_N: the published ones for their number of steps, else even ones among all levels; at τ_N the last ends.

    diffusers' are a whole stride apart.
    """
    last, published = schedule["scale_steps"] - 1, schedule.get("ts", [])
    if len(published) == steps + 1:
        places = np.array(published)
    elif schedule["format"] == "diffusers":
        places = np.append(np.arange(steps) * (schedule["scale_steps"] // steps), last)
    else:
        places = np.round(np.linspace(0, last, steps + 1))
    low, high = (schedule[name] ** (1 / schedule["rho"]) for name in ("sigma_min", "sigma_max"))
    chosen: Vector = (high + places / last * (low - high)) ** schedule["rho"]
    return np.clip(chosen, schedule["sigma_min"], schedule["sigma_max"])


def baseline(name: str, method: str) -> Solver:
    """What the EDM paper compares with: the levels, σ(t) and scale of an older work (table 1)."""

    def plan(schedule: Schedule, steps: int) -> Plan:
        network = Denoiser.of(schedule)
        least, largest = schedule["range"]
        time, sigma = levels.BASELINES[name](least, largest, steps)
        stops = samplers.stops(time, sigma, network.levels)
        return samplers.euler(network, stops) if method == "euler" else samplers.heun(network, stops)

    return Solver(plan, f"{method.capitalize()}'s method at the noise levels and in the time of {name.upper()}")


CHURN = {"churn": Setting(low=0.0, high=1000.0, default=0.0)}
SOLVERS = {
    "heun": Solver(heun_plan, "EDM's sampler, second order: 2·steps − 1 evaluations; churn adds fresh noise", CHURN),
    "euler": Solver(euler_plan, "Euler's method at EDM's noise levels, which is DDIM; churn adds fresh noise", CHURN),
    "dpm": Solver(dpm_plan, "DPM-Solver-2: 2·steps evaluations; churn adds fresh noise", CHURN),
    "ancestral": Solver(ancestral_plan, "Euler's method with DDPM's fresh noise"),
    "dpmpp_2m": Solver(dpmpp_2m_plan, "DPM-Solver++(2M) at EDM's noise levels, second order, deterministic"),
    "dpmpp_3m": Solver(dpmpp_3m_plan, "DPM-Solver++(3M) at EDM's noise levels, third order, deterministic"),
    "unipc": Solver(unipc_plan, "UniPC-3 at EDM's noise levels, deterministic"),
    "deis": Solver(deis_plan, "DEIS in data prediction at EDM's noise levels, deterministic"),
    "multistep": Solver(multistep_plan, "consistency sampling: a clean image each step, and noise again"),
    **{f"{name}_{method}": baseline(name, method) for name in levels.BASELINES for method in ("euler", "heun")},
}

POINTS = [*(Point("heun", steps) for steps in (5, 10, 18)), *(Point("multistep", steps) for steps in (1, 2, 4))]
