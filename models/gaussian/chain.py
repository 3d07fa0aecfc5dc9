"""A schedule of training timesteps, and the columns that a sampler makes of it for any prediction type. NumPy only."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.schedules import Vector
from models.step import Plan, Step

Timesteps = NDArray[np.int64]
TINY = 1e-20  # the least variance whose logarithm published code takes


@dataclass(frozen=True)
class Chain:
    """The manifest's `noise_schedule`, as arrays of T numbers in float64."""

    alphas_cumprod: Vector
    times: Vector
    prediction: str
    variance: str
    clip: float
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, schedule: Mapping[str, Any]) -> "Chain":
        alphas_cumprod = np.asarray(schedule["alphas_cumprod"], dtype=np.float64)
        times = np.asarray(schedule.get("times", np.arange(len(alphas_cumprod))), dtype=np.float64)
        clip = schedule.get("clip")
        return cls(
            alphas_cumprod,
            times,
            schedule["prediction"],
            schedule["variance"],
            np.inf if clip is None else float(clip),
            schedule.get("settings", {}),
        )

    def ends(self, timesteps: Timesteps) -> tuple[Vector, Vector]:
        """ᾱ_t and ᾱ_s of steps from each timestep to the next, the last to the data."""
        abar_t = self.alphas_cumprod[timesteps]
        return abar_t, np.append(abar_t[1:], 1.0)

    def x0_columns(self, abar_t: Vector) -> tuple[Vector, Vector]:
        """P and Q of x0 = P·x + Q·out (arXiv 2202.00512, appendix D)."""
        alpha, sigma = np.sqrt(abar_t), np.sqrt(1 - abar_t)
        match self.prediction:
            case "epsilon":
                return 1 / alpha, -sigma / alpha
            case "v":
                return alpha, -sigma
            case _:
                return np.zeros_like(alpha), np.ones_like(alpha)

    def epsilon_columns(self, abar_t: Vector) -> tuple[Vector, Vector]:
        """The same of the network's own ε, whatever x0 is clipped to."""
        alpha, sigma = np.sqrt(abar_t), np.sqrt(1 - abar_t)
        match self.prediction:
            case "epsilon":
                return np.zeros_like(alpha), np.ones_like(alpha)
            case "v":
                return sigma, alpha
            case _:
                return 1 / sigma, -alpha / sigma

    def predicted(self, plan: Plan, abar_t: Vector) -> Plan:
        """A plan that reads no `out` but in x0, for this prediction type."""
        columns = zip(plan, *(column.tolist() for column in self.x0_columns(abar_t)), strict=True)
        return Plan((step._replace(x0_from_x=p, x0_from_out=q) for step, p, q in columns), signal=plan.signal)

    def rows(self, timesteps: Timesteps, abar_t: Vector, **columns: Vector) -> Plan:
        """A plan from the columns that a sampler has beside time and x0."""
        p, q = self.x0_columns(abar_t)
        table = {"t": self.times[timesteps], "x0_from_x": p, "x0_from_out": q, **columns}
        rows = zip(*(np.asarray(column, dtype=np.float64).tolist() for column in table.values()), strict=True)
        return Plan(Step(clip=self.clip, **dict(zip(table, row, strict=True))) for row in rows)


def ddim(chain: Chain, timesteps: Timesteps, ends: tuple[Vector, Vector], eta: float, *, own: bool = False) -> Plan:
    """DDIM (Song et al. 2020, arXiv 2010.02502, eqs. 12 and 16) with ε from the clipped x0, or the network's `own`."""
    abar_t, abar_s = ends
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.nan_to_num((1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s))
    noise_std = eta * np.sqrt(variance)
    gain = np.sqrt(np.maximum(1 - abar_s - noise_std**2, 0))
    if own:
        from_x, from_out = chain.epsilon_columns(abar_t)
        more = {"x_from_x": gain * from_x, "x_from_out": gain * from_out, "x_from_x0": np.sqrt(abar_s)}
    else:
        per_sigma = gain / np.sqrt(1 - abar_t)
        more = {"x_from_x": per_sigma, "x_from_x0": np.sqrt(abar_s) - per_sigma * np.sqrt(abar_t)}
    return chain.rows(timesteps, abar_t, noise_std=noise_std, **more)


def ancestral(chain: Chain, timesteps: Timesteps, ends: tuple[Vector, Vector], *, least: Vector) -> Plan:
    """Draws from the posterior (Ho et al. 2020, arXiv 2006.11239, eqs. 6 and 7), the last step its mean.

    `least` is the smaller variance, as published code clips it; a learned one lies between it and β in the logarithm
    (Nichol & Dhariwal 2021, arXiv 2102.09672, eq. 15).
    """
    abar_t, abar_s = ends
    betas = 1 - abar_t / abar_s
    noisy = (np.arange(len(timesteps)) < len(timesteps) - 1).astype(np.float64)
    log_std_from_v = np.zeros_like(betas)
    match chain.variance:
        case "learned_range":
            std, log_std_from_v = np.sqrt(least), 0.5 * np.log(betas / least)
        case "learned":  # out is the logarithm itself, and v = (out + 1)/2
            std, log_std_from_v = np.full_like(betas, np.exp(-0.5)), np.ones_like(betas)
        case "fixed_large" | "fixed_large_log":
            std = np.sqrt(betas)
        case _:
            std = np.sqrt(least)
    return chain.rows(
        timesteps,
        abar_t,
        x_from_x=np.sqrt(1 - betas) * (1 - abar_s) / (1 - abar_t),
        x_from_x0=np.sqrt(abar_s) * betas / (1 - abar_t),
        noise_std=noisy * std,
        log_std_from_v=noisy * log_std_from_v,
    )


def posterior_variance(ends: tuple[Vector, Vector]) -> Vector:
    """β̃, which is 0 where a step ends at the data."""
    abar_t, abar_s = ends
    return (1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s)


def clipped_variance(ends: tuple[Vector, Vector]) -> Vector:
    """β̃ whose last value is that of the step before it, as OpenAI's code has it."""
    variance = posterior_variance(ends)
    variance[-1] = variance[-2] if len(variance) > 1 else TINY
    return np.maximum(variance, TINY)
