"""Samplers of noise levels, a row a network evaluation (Karras et al. 2022, arXiv 2206.00364). NumPy only.

A step goes from t to s. The state is x̃ = scale·x, and dx̃/dt = a·x̃ − b·D (eq. 4), with a = σ'/σ + scale'/scale and
b = scale·σ'/σ. In the first row of a plan x̃ is unit noise, so its columns have the start's standard deviation.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from models import multistep
from models.karras import preconditioning
from models.karras.levels import Time, known
from models.karras.preconditioning import Preconditioning
from models.multistep import Columns, Ends
from models.schedules import Vector
from models.step import Plan, Step

LARGEST_CHURN = np.sqrt(2) - 1  # algorithm 2: a step's noise at most doubles its variance


@dataclass(frozen=True)
class Denoiser:
    """D as rows take it. `levels`: the only σ that the network knows; None: any."""

    functions: Preconditioning
    levels: Vector | None
    clip: float

    @classmethod
    def of(cls, schedule: Mapping[str, Any]) -> "Denoiser":
        numbers = schedule["preconditioning"]
        levels = np.asarray(numbers["levels"], dtype=np.float64) if "levels" in numbers else None
        return cls(preconditioning.of(numbers), levels, float(schedule.get("clip", np.inf)))

    def rows(self, sigma: Vector, scale: Vector | float = 1.0, **columns: Vector | float) -> list[Step]:
        """A row for each σ > 0 at which D is evaluated, of states with this scale, and its other columns."""
        table = {
            "t": self.functions.c_noise(sigma),
            "network_from_x": self.functions.c_in(sigma) / scale,
            "x0_from_x": self.functions.c_skip(sigma) / scale,
            "x0_from_out": self.functions.c_out(sigma),
            "clip": self.clip,
            **columns,
        }
        rows = zip(*(np.broadcast_to(column, len(sigma)).tolist() for column in table.values()), strict=True)
        return [Step(**dict(zip(table, row, strict=True))) for row in rows]


class Stops(NamedTuple):
    """Where N steps start and end, each (N,), and the noise that each adds as it begins; the last one ends at σ = 0."""

    time: Time
    t: Vector  # with the churn
    s: Vector  # without
    churn_std: Vector
    start_std: float  # of the first state, before its churn

    @property
    def noise_std(self) -> Vector:
        """What the row at a step's end adds: the churn of the next step."""
        return np.append(self.churn_std[1:], 0.0)

    def start(self) -> float:
        """Standard deviation of the first state: its own noise and its churn are one normal variable."""
        return float(np.hypot(self.start_std, self.churn_std[0]))

    def slopes(self, t: Vector) -> tuple[Vector, Vector]:
        """a and b at t."""
        per_sigma, scale = self.time.sigma_slope(t) / self.time.sigma(t), self.time.scale(t)
        return per_sigma + self.time.scale_slope(t) / scale, scale * per_sigma


def stops(
    time: Time, sigma: Vector, known_levels: Vector | None, churn: float = 0.0, settings: Mapping[str, float] = {}
) -> Stops:
    """Steps from each σ to the next one and to 0, each of which first raises its σ by a share γ (algorithm 2).

    γ = min(churn/N, √2 − 1) for σ within S_min and S_max; the noise is S_noise times as strong as σ rises. `time` has
    s = 1 where there is churn.
    """
    sigma = known(sigma, known_levels)
    within = (sigma >= settings.get("S_min", 0.0)) & (sigma <= settings.get("S_max", np.inf))
    share = np.where(within, min(churn / len(sigma), LARGEST_CHURN), 0.0)
    raised = np.where(share > 0, known(sigma * (1 + share), known_levels), sigma)
    churn_std = settings.get("S_noise", 1.0) * np.sqrt(np.maximum(raised**2 - sigma**2, 0.0))
    starts = time.of_sigma(sigma)
    first = float(time.sigma(starts[:1])[0] * time.scale(starts[:1])[0])
    return Stops(time, time.of_sigma(raised), np.append(starts[1:], 0.0), churn_std, first)


def begun(rows: Iterable[Step], std: float) -> Plan:
    """The plan whose first state is unit noise times `std`."""
    first, *others = rows
    names = ("network_from_x", "x0_from_x", "x_from_x")
    return Plan([first._replace(**{name: std * getattr(first, name) for name in names}), *others], start_std=std)


def euler(network: Denoiser, at: Stops) -> Plan:
    """x_s = x + (s − t)·(a·x − b·D)."""
    a, b = at.slopes(at.t)
    h = at.s - at.t
    columns = {"x_from_x": 1 + h * a, "x_from_x0": -h * b, "noise_std": at.noise_std}
    return begun(network.rows(at.time.sigma(at.t), at.time.scale(at.t), **columns), at.start())


def heun(network: Denoiser, at: Stops) -> Plan:
    """Algorithm 1: an Euler step to x1, and x_s = x + (s − t)·½(slope at t + slope at s); the last step is Euler's.

    The second row has x1, D1 as `x0_prev` and D2: x is (x1 + (s − t)·b·D1)/(1 + (s − t)·a).
    """
    a, b = at.slopes(at.t)
    h, last = at.s - at.t, len(at.t) - 1
    there, ends = 1 + h * a, at.s[:-1]
    a_s, b_s = at.slopes(ends)
    final = np.arange(len(h)) == last
    sigma, scale = at.time.sigma(at.t), at.time.scale(at.t)
    firsts = network.rows(sigma, scale, x_from_x=there, x_from_x0=-h * b, noise_std=np.where(final, at.noise_std, 0.0))
    h, a, b, there = h[:-1], a[:-1], b[:-1], there[:-1]
    x_from_start = 1 + h * a / 2
    seconds = network.rows(
        at.time.sigma(ends),
        at.time.scale(ends),
        x_from_x=x_from_start / there + h * a_s / 2,
        x_from_x0=-h * b_s / 2,
        x_from_x0_prev=x_from_start / there * h * b - h * b / 2,
        noise_std=at.noise_std[:-1],
    )
    pairs = [row for pair in zip(firsts[:-1], seconds, strict=True) for row in pair]
    return begun([*pairs, firsts[-1]], at.start())


def midpoint(network: Denoiser, at: Stops) -> Plan:
    """DPM-Solver-2 of the same paper's appendix: an Euler step to a level between, whose slope takes x to s.

    σ^⅓ of that level is the mean of both ends'. States are x itself.
    """
    middle = ((np.cbrt(at.t) + np.cbrt(at.s)) / 2) ** 3
    ratio, h = middle / at.t, at.s - at.t
    firsts = network.rows(at.t, x_from_x=ratio, x_from_x0=1 - ratio)
    seconds = network.rows(
        middle,
        x_from_x=1 / ratio + h / middle,
        x_from_x0=-h / middle,
        x_from_x0_prev=-(1 - ratio) / ratio,
        noise_std=at.noise_std,
    )
    return begun([row for pair in zip(firsts, seconds, strict=True) for row in pair], at.start())


def euler_ancestral(network: Denoiser, at: Stops) -> Plan:
    """An Euler step below s and noise up to it: σ_up = σ_s·√(1 − σ_s²/σ_t²), as DDPM has it. States are x itself."""
    up = at.s * np.sqrt(1 - (at.s / at.t) ** 2)
    ratio = np.sqrt(np.maximum(at.s**2 - up**2, 0.0)) / at.t
    return begun(network.rows(at.t, x_from_x=ratio, x_from_x0=1 - ratio, noise_std=up), at.start())


def dpmpp_2m(network: Denoiser, at: Stops) -> Plan:
    """DPM-Solver++(2M) with α = 1 (Lu et al. 2022, arXiv 2211.01095, algorithm 2), λ = −log σ. States are x itself."""
    ratio = at.s / at.t
    with np.errstate(divide="ignore"):
        h = -np.log(ratio)
    more = np.zeros_like(h)
    more[1:] = h[1:] / (2 * h[:-1])
    more[-1] = 0.0  # to σ = 0 there is no finite h
    gain = 1 - ratio
    columns = {"x_from_x": ratio, "x_from_x0": gain * (1 + more), "x_from_x0_prev": -gain * more}
    return begun(network.rows(at.t, **columns), at.start())


def dpmpp_3m(network: Denoiser, at: Stops) -> Plan:
    return _multistep(multistep.dpmpp_3m, network, at)


def unipc(network: Denoiser, at: Stops) -> Plan:
    return _multistep(multistep.unipc, network, at)


def deis(network: Denoiser, at: Stops) -> Plan:
    return _multistep(multistep.deis, network, at)


def _multistep(columns: Callable[[Ends], Columns], network: Denoiser, at: Stops) -> Plan:
    """A solver of `models.multistep` with α = 1. States are x itself."""
    one = np.ones_like(at.t)
    return begun(network.rows(at.t, **columns(Ends(one, at.t, one, at.s))), at.start())


def consistency(network: Denoiser, sigma: Vector, least: float, factor: float = 1.0) -> Plan:
    """Multistep consistency sampling (Song et al. 2023, arXiv 2303.01469, algorithm 1) at σ[:-1].

    x = D(x, τ) + factor·√(τ_next² − ε²)·noise, where ε is the `least` level; σ[-1] is where the last step ends.
    """
    noise_std = factor * np.sqrt(np.maximum(sigma[1:] ** 2 - least**2, 0.0))
    return begun(network.rows(sigma[:-1], x_from_x0=1.0, noise_std=noise_std), float(sigma[0]))
