"""Plans over a schedule of training timesteps, for networks that predict ε: DDIM's and the latent family's.

The schedule is `{"alphas_cumprod": [ᾱ_0, …, ᾱ_{T−1}]}`, falling from nearly 1 (data) to nearly 0 (noise). A member
`"clip"` means that states lie in [−clip, clip] instead of [−1, 1].
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from models.schedules import Vector, log_snr_grid, trailing_grid
from models.solvers import Setting, Solver, ddim, deis, dpmpp_2m, dpmpp_3m, heun, unipc
from models.step import Plan

Schedule = Mapping[str, Any]


def max_steps(schedule: Schedule) -> int:
    """One step for each training timestep. Raises ValueError for a schedule that does not fall from data to noise."""
    alphas_cumprod = np.asarray(schedule["alphas_cumprod"], dtype=np.float64)
    if alphas_cumprod.ndim != 1 or not len(alphas_cumprod):
        raise ValueError("noise_schedule: alphas_cumprod is no list of numbers")
    if not (np.diff(alphas_cumprod, prepend=1.0, append=0.0) < 0).all():
        raise ValueError("noise_schedule: alphas_cumprod does not fall between 1 and 0")
    return len(alphas_cumprod)


def signal(schedule: Schedule, plan: Plan) -> tuple[Vector, Vector]:
    """α and σ of the state at the start of each step."""
    abar = np.asarray(schedule["alphas_cumprod"], dtype=np.float64)[[int(k.t) for k in plan]]
    return np.sqrt(abar), np.sqrt(1 - abar)


def clip(schedule: Schedule) -> float:
    """The bound of the states, 1 if the schedule has none."""
    return float(schedule.get("clip", 1.0))


def ddim_plan(schedule: Schedule, steps: int, *, eta: float) -> Plan:
    """DDIM at trailing timesteps. Raises ValueError for more steps than timesteps."""
    return ddim(*trailing_grid(schedule["alphas_cumprod"], steps), eta=eta, clip=clip(schedule))


def dpmpp_2m_plan(schedule: Schedule, steps: int) -> Plan:
    """DPM-Solver++(2M) at timesteps evenly spaced in the log of the signal-to-noise ratio."""
    return dpmpp_2m(*log_snr_grid(schedule["alphas_cumprod"], steps), clip=clip(schedule))


def dpmpp_3m_plan(schedule: Schedule, steps: int) -> Plan:
    return dpmpp_3m(*log_snr_grid(schedule["alphas_cumprod"], steps), clip=clip(schedule))


def unipc_plan(schedule: Schedule, steps: int) -> Plan:
    return unipc(*log_snr_grid(schedule["alphas_cumprod"], steps), clip=clip(schedule))


def deis_plan(schedule: Schedule, steps: int) -> Plan:
    return deis(*log_snr_grid(schedule["alphas_cumprod"], steps), clip=clip(schedule))


def heun_plan(schedule: Schedule, steps: int) -> Plan:
    return heun(*log_snr_grid(schedule["alphas_cumprod"], steps), clip=clip(schedule))


def solvers(*, default_eta: float, space: str = "") -> dict[str, Solver]:
    """DDIM, the default, and those of higher order. `space` goes after their names in summaries, e.g. " on latents"."""
    return {
        "ddim": Solver(
            ddim_plan,
            f"DDIM{space}; eta = 0 is deterministic, eta = 1 is DDPM's ancestral sampling",
            {"eta": Setting(low=0.0, high=1.0, default=default_eta)},
        ),
        "dpmpp_2m": Solver(dpmpp_2m_plan, f"DPM-Solver++(2M){space}, second order, deterministic"),
        "dpmpp_3m": Solver(dpmpp_3m_plan, f"DPM-Solver++(3M){space}, third order, deterministic"),
        "unipc": Solver(unipc_plan, f"UniPC-3{space}, a predictor and a corrector of third order, deterministic"),
        "deis": Solver(deis_plan, f"DEIS{space} in data prediction, up to fourth order, deterministic"),
        "heun": Solver(heun_plan, f"EDM's Heun{space}, second order, deterministic: 2·steps − 1 evaluations"),
    }
