"""Plans of published models of T timesteps: each format's own sampler by its own rules, and DPM-Solver++(2M).

The schedule is `{"format", "solvers", "alphas_cumprod": [ᾱ_0, …, ᾱ_{T−1}], "prediction", "variance"}`, and where they
matter `"times"` (what the network takes for each timestep), `"clip"` (the bound of x0; none: unclipped) and
`"settings"` (those of the format's sampler).
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from models.bound import Bound, DiscreteBound
from models.families import Point
from models.gaussian import samplers
from models.gaussian.chain import Chain
from models.schedules import Vector, log_snr_timesteps
from models.solvers import Setting, Solver, deis, dpmpp_2m, dpmpp_3m, unipc
from models.step import Plan

Schedule = Mapping[str, Any]
OF_LATENTS = ("latent-diffusion", "dit")  # formats, whatever decoder the bundle has


def max_steps(schedule: Schedule) -> int:
    """One step a training timestep, or as many as the format's sampler can take."""
    timesteps = len(schedule["alphas_cumprod"])
    return timesteps // 2 if schedule["format"] == "latent-diffusion" else timesteps


def signal(schedule: Schedule, plan: Plan) -> tuple[Vector, Vector]:
    """α and σ of the state at the start of each step."""
    chain = Chain.of(schedule)
    timesteps = {time: timestep for timestep, time in enumerate(chain.times.tolist())}
    abar = chain.alphas_cumprod[[timesteps[k.t] for k in plan]]
    return np.sqrt(abar), np.sqrt(1 - abar)


def ddim_plan(schedule: Schedule, steps: int, *, eta: float) -> Plan:
    return samplers.DDIM[schedule["format"]](Chain.of(schedule), steps, eta)


def ddpm_plan(schedule: Schedule, steps: int) -> Plan:
    return samplers.DDPM[schedule["format"]](Chain.of(schedule), steps)


def posterior_plan(schedule: Schedule, steps: int) -> Plan:
    return samplers.trailing_posterior(Chain.of(schedule), steps)


def dpmpp_2m_plan(schedule: Schedule, steps: int) -> Plan:
    return _by_log_snr(dpmpp_2m, schedule, steps)


def dpmpp_3m_plan(schedule: Schedule, steps: int) -> Plan:
    return _by_log_snr(dpmpp_3m, schedule, steps)


def unipc_plan(schedule: Schedule, steps: int) -> Plan:
    return _by_log_snr(unipc, schedule, steps)


def deis_plan(schedule: Schedule, steps: int) -> Plan:
    return _by_log_snr(deis, schedule, steps)


def _by_log_snr(solver: Callable[..., Plan], schedule: Schedule, steps: int) -> Plan:
    chain = Chain.of(schedule)
    timesteps = log_snr_timesteps(chain.alphas_cumprod, steps)
    abar_t, abar_s = chain.ends(timesteps)
    return chain.predicted(solver(chain.times[timesteps], abar_t, abar_s, clip=chain.clip), abar_t)


def bound(schedule: Schedule) -> Bound | None:
    """With the chain's own variance. None for one that repeats a noise level or ends in pure noise, and for latents."""
    chain = Chain.of(schedule)
    falls = (np.diff(chain.alphas_cumprod, prepend=1.0, append=0.0) < 0).all()
    return DiscreteBound(chain) if falls and schedule["format"] not in OF_LATENTS else None


SOLVERS = {
    "ddim": Solver(
        ddim_plan,
        "DDIM at the timesteps of the format; eta = 0 is deterministic",
        {"eta": Setting(low=0.0, high=1.0, default=0.0)},
    ),
    "ddpm": Solver(ddpm_plan, "ancestral sampling at the timesteps of the format, with its variance"),
    "posterior": Solver(posterior_plan, "draws from q(x_s | x_t, x0) with the network's x0"),
    "dpmpp_2m": Solver(dpmpp_2m_plan, "DPM-Solver++(2M), second order, deterministic"),
    "dpmpp_3m": Solver(dpmpp_3m_plan, "DPM-Solver++(3M), third order, deterministic"),
    "unipc": Solver(unipc_plan, "UniPC-3, a predictor and a corrector of third order, deterministic"),
    "deis": Solver(deis_plan, "DEIS in data prediction, up to fourth order, deterministic"),
}

POINTS = [Point("dpmpp_2m", steps) for steps in (4, 10, 20)]
