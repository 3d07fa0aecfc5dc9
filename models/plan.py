"""Every sampler as a table: the step, the plan, the update that reads them, and the solvers that write them.

Notation, as in the papers: a step goes from time t to time s, nearer the data. ᾱ (`alphas_cumprod`) is the cumulative
signal power, α = √ᾱ and σ = √(1 − ᾱ), so x_t = α_t·x0 + σ_t·ε. Coefficients are computed in float64; NumPy only.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self, cast

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


class Step(NamedTuple):
    """One line of a plan: where the network is evaluated and the coefficients of `update`."""

    t: float  # the time the network is told
    P: float  # x0 from x
    Q: float  # x0 from out
    c: float  # x0 is clipped to [-c, c]; inf leaves it
    R: float  # x_new from x
    S: float  # x_new from x0
    T: float  # x_new from out
    H: float  # x_new from x0_prev, the x0 of the step before
    N: float  # standard deviation of the fresh noise


class Plan(tuple[Step, ...]):
    """The steps of one image, in the order they run; `len(plan)` is the number of function evaluations (NFE).

    Raises ValueError for a table that no sampler can mean: no steps, a coefficient that is not finite, a bound c
    that is not positive, a negative noise, or a first step that reads the x0 of a step before it.
    """

    __slots__ = ()

    def __new__(cls, steps: Iterable[Step]) -> Self:
        plan = super().__new__(cls, steps)
        if not plan:
            raise ValueError("a plan needs at least one step")
        for i, k in enumerate(plan):
            if not np.isfinite([k.t, k.P, k.Q, k.R, k.S, k.T, k.H, k.N]).all():
                raise ValueError(f"step {i} has a coefficient that is not finite: {k}")
            if not k.c > 0:
                raise ValueError(f"step {i} clips x0 to a bound that is not positive: c = {k.c}")
            if k.N < 0:
                raise ValueError(f"step {i} has a negative noise: N = {k.N}")
        if plan[0].H != 0:
            raise ValueError(f"the first step has no x0 before it, yet H = {plan[0].H}")
        return plan


def update(k: Any, x: Any, out: Any, x0_prev: Any, noise: Any) -> tuple[Any, Any]:
    """One denoising step, written once for NumPy, PyTorch and the export: returns (x_new, x0), shaped like x.

    `k` holds the coefficients as `Step` names them: scalars, or arrays that broadcast against x (one value a row).
    """
    x0 = (k.P * x + k.Q * out).clip(-k.c, k.c)
    return k.R * x + k.S * x0 + k.T * out + k.H * x0_prev + k.N * noise, x0


def trailing_timesteps(timesteps: int, steps: int) -> NDArray[np.int64]:
    """The `steps` of `timesteps` training timesteps that a sampler visits, highest first, as int64.

    Evenly spaced from the last one down, the "trailing" spacing of Lin et al. 2023 (arXiv 2305.08891, table 2):
    sampling starts where the training noise is strongest whatever the number of steps. Raises ValueError if there are
    not so many.
    """
    _check_steps(steps, timesteps)
    return np.round(np.linspace(timesteps, 0, steps, endpoint=False)).astype(np.int64) - 1


def log_snr_timesteps(alphas_cumprod: Vector, steps: int) -> NDArray[np.int64]:
    """As `trailing_timesteps`, but evenly spaced in λ = log(α/σ), half the log of the signal-to-noise ratio.

    DPM-Solver's own spacing (Lu et al. 2022, arXiv 2206.00927, "step size schedule"), at the nearest timesteps that
    leave each step one of its own.
    """
    _check_steps(steps, len(alphas_cumprod))
    log_snr = 0.5 * np.log(alphas_cumprod / (1 - alphas_cumprod))
    wanted = np.linspace(log_snr[-1], log_snr[0], steps, endpoint=False)
    nearest = np.abs(log_snr - wanted[:, None]).argmin(axis=1)
    after = np.arange(steps)[::-1]  # steps yet to come
    return np.minimum.accumulate(np.maximum(nearest, after) - after) + after


def _check_steps(steps: int, timesteps: int) -> None:
    if not 1 <= steps <= timesteps:
        raise ValueError(f"{steps} steps: this schedule has plans of 1 to {timesteps}")


def ends(alphas_cumprod: Vector, timesteps: NDArray[np.int64]) -> tuple[Vector, Vector]:
    """ᾱ_t and ᾱ_s of each step of a sampler that visits `timesteps` and ends at the data, where ᾱ = 1."""
    abar_t = alphas_cumprod[timesteps]
    return abar_t, np.append(abar_t[1:], 1.0)


def visit(alphas_cumprod: Sequence[float], steps: int) -> tuple[Vector, Vector, Vector]:
    """t, ᾱ_t and ᾱ_s of each of `steps` steps over a schedule of ᾱ by timestep, at trailing timesteps."""
    return visit_at(alphas_cumprod, trailing_timesteps(len(alphas_cumprod), steps))


def visit_by_log_snr(alphas_cumprod: Sequence[float], steps: int) -> tuple[Vector, Vector, Vector]:
    """As `visit`, at timesteps evenly spaced in the log of the signal-to-noise ratio."""
    return visit_at(alphas_cumprod, log_snr_timesteps(np.asarray(alphas_cumprod, dtype=np.float64), steps))


def visit_at(alphas_cumprod: Sequence[float], timesteps: NDArray[np.int64]) -> tuple[Vector, Vector, Vector]:
    """t, ᾱ_t and ᾱ_s of steps at these timesteps."""
    return timesteps.astype(np.float64), *ends(np.asarray(alphas_cumprod, dtype=np.float64), timesteps)


def ddim(t: Vector, abar_t: Vector, abar_s: Vector, *, eta: float = 0.0, clip: float = 1.0) -> Plan:
    """DDIM for a network that predicts ε (Song et al. 2020, arXiv 2010.02502, eqs. 12 and 16).

    x_s = α_s·x0 + √(σ_s² − N²)·ε + N·noise with N = η·(σ_s/σ_t)·√(1 − ᾱ_t/ᾱ_s): η = 0 is DDIM, η = 1 is DDPM.
    ε is (x − α_t·x0)/σ_t, what the clipped x0 leaves of x and not the network's own: unclipped, the two are one.
    """
    alpha_t, sigma_t = np.sqrt(abar_t), np.sqrt(1 - abar_t)
    alpha_s, sigma_s = np.sqrt(abar_s), np.sqrt(1 - abar_s)
    N = eta * (sigma_s / sigma_t) * np.sqrt(1 - abar_t / abar_s)
    R = np.sqrt(sigma_s**2 - N**2) / sigma_t
    return _plan(t=t, P=1 / alpha_t, Q=-sigma_t / alpha_t, c=clip, R=R, S=alpha_s - R * alpha_t, N=N)


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
        t=t,
        P=1 / alpha_t,
        Q=-sigma_t / alpha_t,
        c=clip,
        R=sigma_s / sigma_t,
        S=gain * (1 + half_inverse_r),
        H=-gain * half_inverse_r,
    )


def ancestral(gamma_t: Vector, gamma_s: Vector, *, clip: float = 1.0) -> Plan:
    """VDM's ancestral sampling for a network that predicts ε (Kingma et al. 2021, arXiv 2107.00630, appendix A.4).

    With γ = −log SNR, ᾱ = sigmoid(−γ) and κ = −expm1(γ_s − γ_t), so that 1 − κ = e^(γ_s − γ_t):
    x_s = α_s·((1 − κ)/α_t·x + κ·x0) + σ_s·√κ·noise. The last x is divided by its α, which gives the most likely pixels.
    """
    alpha_t, sigma_t = np.sqrt(1 / (1 + np.exp(gamma_t))), np.sqrt(1 / (1 + np.exp(-gamma_t)))
    alpha_s, sigma_s = np.sqrt(1 / (1 + np.exp(gamma_s))), np.sqrt(1 / (1 + np.exp(-gamma_s)))
    kappa = -np.expm1(gamma_s - gamma_t)
    to_pixels = np.ones_like(alpha_s)
    to_pixels[-1] = 1 / alpha_s[-1]
    return _plan(
        t=gamma_t,
        P=1 / alpha_t,
        Q=-sigma_t / alpha_t,
        c=clip,
        R=to_pixels * alpha_s * np.exp(gamma_s - gamma_t) / alpha_t,
        S=to_pixels * alpha_s * kappa,
        N=to_pixels * sigma_s * np.sqrt(kappa),
    )


def langevin(t: Vector, abar_t: Vector, abar_s: Vector, *, step_size: float = 0.5, clip: float = 1.0) -> Plan:
    """Annealed Langevin dynamics for a network that predicts ε (Song & Ermon 2019, arXiv 1907.05600, algorithm 1).

    At each noise level z ← z + η·score(z) + √(2η)·noise, with score(z) = −ε̂/σ_t and η = step_size·σ_t², so that its
    share of the noise is the same at all levels; scaled by α_s/α_t, z is then at the next. The last step gives x0.
    """
    alpha_t, sigma_t = np.sqrt(abar_t), np.sqrt(1 - abar_t)
    scale = np.sqrt(abar_s) / alpha_t
    last = np.arange(len(t)) == len(t) - 1
    return _plan(
        t=t,
        P=1 / alpha_t,
        Q=-sigma_t / alpha_t,
        c=clip,
        R=np.where(last, 0.0, scale),
        S=np.where(last, 1.0, 0.0),
        T=np.where(last, 0.0, -scale * step_size * sigma_t),
        N=np.where(last, 0.0, scale * sigma_t * np.sqrt(2 * step_size)),
    )


def posterior(t: Vector, abar_t: Vector, abar_s: Vector, *, clip: float = 1.0) -> Plan:
    """Draws x_s from q(x_s | x_t, x0) for a network that predicts x0 (Xiao et al. 2022, arXiv 2112.07804, section 3).

    The Gaussian posterior of Ho et al. 2020 (arXiv 2006.11239, eqs. 6 and 7) over a jump with a = ᾱ_t/ᾱ_s:
    x_s = √a·σ_s²/σ_t²·x + α_s(1 − a)/σ_t²·x0 + σ_s·√(1 − a)/σ_t·noise.
    """
    a = abar_t / abar_s
    variance_t, variance_s = 1 - abar_t, 1 - abar_s
    return _plan(
        t=t,
        Q=1.0,
        c=clip,
        R=np.sqrt(a) * variance_s / variance_t,
        S=np.sqrt(abar_s) * (1 - a) / variance_t,
        N=np.sqrt(variance_s * (1 - a) / variance_t),
    )


def _plan(**columns: Vector | float) -> Plan:
    """A plan from its columns; a coefficient that is not named is 0."""
    steps = len(cast(Vector, columns["t"]))
    table = [np.broadcast_to(columns.get(name, 0.0), steps).tolist() for name in Step._fields]
    return Plan(map(Step._make, zip(*table, strict=True)))


class Setting(NamedTuple):
    """A number that a solver takes beside `steps`, within [low, high]."""

    low: float
    high: float
    default: float


class Solver(NamedTuple):
    """A way of sampling: `plan(schedule, steps, **settings)`, the settings it takes, and what it is in a line."""

    plan: Callable[..., Plan]
    summary: str
    settings: Mapping[str, Setting] = {}


class Point(NamedTuple):
    """A way of sampling that `./run evaluate` measures; settings that it does not name have their defaults."""

    solver: str
    steps: int
    settings: Mapping[str, float] = {}


class Family(Protocol):
    """What `models/FAMILY/plan.py` provides. `schedule` is the manifest's `noise_schedule`."""

    SOLVERS: Mapping[str, Solver]  # the first one is the default
    POINTS: Sequence[Point]

    def max_steps(self, schedule: Mapping[str, Any]) -> int:
        """The largest number of steps that a plan of this schedule can have."""
        ...
