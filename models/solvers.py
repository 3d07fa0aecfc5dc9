"""The solvers: each computes a plan by its paper's equation. The notation is that of `models.step`."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, cast

import numpy as np

from models import multistep
from models.multistep import Columns, Ends
from models.schedules import Vector
from models.step import Plan, Step


def ddim(t: Vector, abar_t: Vector, abar_s: Vector, *, eta: float = 0.0, clip: float = 1.0) -> Plan:
    """DDIM for a network that predicts ε (Song et al. 2020, arXiv 2010.02502, eqs. 12 and 16).

    x_s = α_s·x0 + √(σ_s² − N²)·ε + N·noise with N = η·(σ_s/σ_t)·√(1 − ᾱ_t/ᾱ_s): η = 0 is DDIM, η = 1 is DDPM.
    ε is (x − α_t·x0)/σ_t, computed from the clipped x0. Without clipping it is the network's own prediction.
    """
    alpha_t, sigma_t = np.sqrt(abar_t), np.sqrt(1 - abar_t)
    alpha_s, sigma_s = np.sqrt(abar_s), np.sqrt(1 - abar_s)
    noise_std = eta * (sigma_s / sigma_t) * np.sqrt(1 - abar_t / abar_s)
    x_from_x = np.sqrt(sigma_s**2 - noise_std**2) / sigma_t
    return _plan(
        (alpha_t, alpha_s),
        t=t,
        x0_from_x=1 / alpha_t,
        x0_from_out=-sigma_t / alpha_t,
        clip=clip,
        x_from_x=x_from_x,
        x_from_x0=alpha_s - x_from_x * alpha_t,
        noise_std=noise_std,
    )


def dpmpp_2m(t: Vector, abar_t: Vector, abar_s: Vector, *, clip: float = 1.0) -> Plan:
    """DPM-Solver++(2M) for a network that predicts ε (Lu et al. 2022, arXiv 2211.01095, algorithm 2).

    With λ = log(α/σ), h = λ_s − λ_t and r = h_prev/h:
    x_s = (σ_s/σ_t)·x + α_s(1 − e^−h)·[(1 + 1/2r)·x0 − (1/2r)·x0_prev].
    The first step has no x0_prev and the last, to σ_s = 0, no finite h: both are of first order.
    """
    alpha_t, sigma_t = np.sqrt(abar_t), np.sqrt(1 - abar_t)
    alpha_s, sigma_s = np.sqrt(abar_s), np.sqrt(1 - abar_s)
    with np.errstate(divide="ignore"):
        h = np.log(alpha_s / sigma_s) - np.log(alpha_t / sigma_t)
    half_inverse_r = np.zeros_like(h)
    half_inverse_r[1:] = h[1:] / (2 * h[:-1])
    half_inverse_r[np.isinf(h)] = 0.0
    gain = alpha_s * -np.expm1(-h)
    return _plan(
        (alpha_t, alpha_s),
        t=t,
        x0_from_x=1 / alpha_t,
        x0_from_out=-sigma_t / alpha_t,
        clip=clip,
        x_from_x=sigma_s / sigma_t,
        x_from_x0=gain * (1 + half_inverse_r),
        x_from_x0_prev=-gain * half_inverse_r,
    )


def dpmpp_3m(t: Vector, abar_t: Vector, abar_s: Vector, *, clip: float = 1.0) -> Plan:
    """DPM-Solver++(3M) for a network that predicts ε, as `models.multistep` has it."""
    return _multistep(multistep.dpmpp_3m, t, abar_t, abar_s, clip)


def deis(t: Vector, abar_t: Vector, abar_s: Vector, *, clip: float = 1.0) -> Plan:
    """DEIS in data prediction for a network that predicts ε, as `models.multistep` has it."""
    return _multistep(multistep.deis, t, abar_t, abar_s, clip)


def unipc(t: Vector, abar_t: Vector, abar_s: Vector, *, clip: float = 1.0) -> Plan:
    """UniPC-3 for a network that predicts ε, as `models.multistep` has it."""
    return _multistep(multistep.unipc, t, abar_t, abar_s, clip)


def _multistep(columns: Callable[[Ends], Columns], t: Vector, abar_t: Vector, abar_s: Vector, clip: float) -> Plan:
    ends = Ends(np.sqrt(abar_t), np.sqrt(1 - abar_t), np.sqrt(abar_s), np.sqrt(1 - abar_s))
    return _plan(
        (ends.alpha_t, ends.alpha_s),
        t=t,
        x0_from_x=1 / ends.alpha_t,
        x0_from_out=-ends.sigma_t / ends.alpha_t,
        clip=clip,
        **columns(ends),
    )


def heun(t: Vector, abar_t: Vector, abar_s: Vector, *, clip: float = 1.0) -> Plan:
    """EDM's Heun for a network that predicts ε, 2·steps − 1 rows (Karras et al. 2022, arXiv 2206.00364, algorithm 1).

    In x/α and r = (σ_s/α_s)/(σ_t/α_t), a step has two rows: Euler's to s, and x + α_s(1 − r)/2r·(x0 − x0_prev) there.
    The last step, to σ = 0, is Euler's alone.
    """
    euler = ddim(t, abar_t, abar_s, clip=clip)
    alpha_s = np.sqrt(abar_s[:-1])
    ratio = np.sqrt((1 - abar_s[:-1]) * abar_t[:-1] / ((1 - abar_t[:-1]) * abar_s[:-1]))
    gain = alpha_s * (1 - ratio) / (2 * ratio)
    seconds = [
        there._replace(x_from_x=1.0, x_from_x0=more, x_from_x0_prev=-more, noise_std=0.0)
        for there, more in zip(euler[1:], gain.tolist(), strict=True)
    ]
    return Plan([row for pair in zip(euler, seconds, strict=False) for row in pair] + [euler[-1]])


def ancestral(gamma_t: Vector, gamma_s: Vector, *, clip: float = 1.0) -> Plan:
    """VDM's ancestral sampling for a network that predicts ε (Kingma et al. 2021, arXiv 2107.00630, appendix A.4).

    With γ = −log SNR, ᾱ = sigmoid(−γ) and κ = −expm1(γ_s − γ_t), so that 1 − κ = e^(γ_s − γ_t):
    x_s = α_s·((1 − κ)/α_t·x + κ·x0) + σ_s·√κ·noise. Dividing the last x by its α gives the most likely pixels.
    """
    alpha_t, sigma_t = np.sqrt(1 / (1 + np.exp(gamma_t))), np.sqrt(1 / (1 + np.exp(-gamma_t)))
    alpha_s, sigma_s = np.sqrt(1 / (1 + np.exp(gamma_s))), np.sqrt(1 / (1 + np.exp(-gamma_s)))
    kappa = -np.expm1(gamma_s - gamma_t)
    to_pixels = np.ones_like(alpha_s)
    to_pixels[-1] = 1 / alpha_s[-1]
    return _plan(
        (alpha_t, to_pixels * alpha_s),
        t=gamma_t,
        x0_from_x=1 / alpha_t,
        x0_from_out=-sigma_t / alpha_t,
        clip=clip,
        x_from_x=to_pixels * alpha_s * np.exp(gamma_s - gamma_t) / alpha_t,
        x_from_x0=to_pixels * alpha_s * kappa,
        noise_std=to_pixels * sigma_s * np.sqrt(kappa),
    )


def langevin(t: Vector, abar_t: Vector, abar_s: Vector, *, step_size: float = 0.5, clip: float = 1.0) -> Plan:
    """Annealed Langevin dynamics for a network that predicts ε (Song & Ermon 2019, arXiv 1907.05600, algorithm 1).

    At each noise level z ← z + η·score(z) + √(2η)·noise, with score(z) = −ε̂/σ_t and η = step_size·σ_t²: the step is the
    same share of the noise at all levels. Then z is scaled by α_s/α_t to the next level. The last step gives x0.
    """
    alpha_t, sigma_t = np.sqrt(abar_t), np.sqrt(1 - abar_t)
    scale = np.sqrt(abar_s) / alpha_t
    last = np.arange(len(t)) == len(t) - 1
    return _plan(
        (alpha_t, np.where(last, 1.0, np.sqrt(abar_s))),
        t=t,
        x0_from_x=1 / alpha_t,
        x0_from_out=-sigma_t / alpha_t,
        clip=clip,
        x_from_x=np.where(last, 0.0, scale),
        x_from_x0=np.where(last, 1.0, 0.0),
        x_from_out=np.where(last, 0.0, -scale * step_size * sigma_t),
        noise_std=np.where(last, 0.0, scale * sigma_t * np.sqrt(2 * step_size)),
    )


def posterior(t: Vector, abar_t: Vector, abar_s: Vector, *, clip: float = 1.0) -> Plan:
    """Draws x_s from q(x_s | x_t, x0) for a network that predicts x0 (Xiao et al. 2022, arXiv 2112.07804, section 3).

    The Gaussian posterior of Ho et al. 2020 (arXiv 2006.11239, eqs. 6 and 7) over a jump with a = ᾱ_t/ᾱ_s:
    x_s = √a·σ_s²/σ_t²·x + α_s(1 − a)/σ_t²·x0 + σ_s·√(1 − a)/σ_t·noise.
    """
    a = abar_t / abar_s
    variance_t, variance_s = 1 - abar_t, 1 - abar_s
    return _plan(
        (np.sqrt(abar_t), np.sqrt(abar_s)),
        t=t,
        x0_from_out=1.0,
        clip=clip,
        x_from_x=np.sqrt(a) * variance_s / variance_t,
        x_from_x0=np.sqrt(abar_s) * (1 - a) / variance_t,
        noise_std=np.sqrt(variance_s * (1 - a) / variance_t),
    )


def _plan(signal: tuple[Vector, Vector], /, **columns: Vector | float) -> Plan:
    """A plan from α at both ends of its steps and its columns, (steps,) each or one number; some have their default."""
    steps = len(cast(Vector, columns["t"]))
    columns = {**Step._field_defaults, **columns}
    table = [np.broadcast_to(columns[name], steps).tolist() for name in Step._fields]
    return Plan(map(Step._make, zip(*table, strict=True)), signal=signal)


class Setting(NamedTuple):
    """A number that a solver takes beside `steps`, within [low, high]."""

    low: float
    high: float
    default: float


SettingValues = tuple[tuple[str, float], ...]


class Solver(NamedTuple):
    """A way of sampling: `plan(schedule, steps, **settings)`, a summary in one line, and the settings that it takes.

    `steps`: the only numbers of steps that it has plans for, rising; empty: any up to the schedule's most.
    """

    plan: Callable[..., Plan]
    summary: str
    settings: Mapping[str, Setting] = {}
    steps: tuple[int, ...] = ()

    @property
    def defaults(self) -> SettingValues:
        """The settings' default values, by name."""
        return tuple((name, setting.default) for name, setting in self.settings.items())

    def with_defaults(self, values: Mapping[str, float]) -> "Solver":
        """With other defaults. Raises KeyError for a setting that it does not have, ValueError for one out of range."""
        settings = dict(self.settings)
        for name, value in values.items():
            if not settings[name].low <= value <= settings[name].high:
                raise ValueError(f"the default {name} = {value} is out of its range")
            settings[name] = settings[name]._replace(default=float(value))
        return self._replace(settings=settings)
