"""Every sampler as a table: the step, the plan, and the update that reads them.

Notation, as in the papers: a step goes from time t to time s, nearer the data. ᾱ (`alphas_cumprod`) is the cumulative
signal power, α = √ᾱ and σ = √(1 − ᾱ), so x_t = α_t·x0 + σ_t·ε. Coefficients are computed in float64; NumPy only.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Self

import numpy as np


class Step(NamedTuple):
    """One row of a plan: where the network is evaluated and the coefficients of `update`."""

    t: float  # the time that the network gets
    x0_from_x: float = 0.0  # P in the documentation's table
    x0_from_out: float = 0.0  # Q
    clip: float = np.inf  # c: x0 is clipped to [-clip, clip]; inf leaves it
    x_from_x: float = 0.0  # R
    x_from_x0: float = 0.0  # S
    x_from_out: float = 0.0  # T
    x_from_x0_prev: float = 0.0  # H: x0_prev is the x0 of the step before
    noise_std: float = 0.0  # N: standard deviation of the fresh noise
    log_std_from_v: float = 0.0  # M: a learned variance v in [0, 1] multiplies the noise by exp(M·v)
    network_from_x: float = 1.0  # I: the network gets I·x
    x_from_x0_prev2: float = 0.0  # H2 and H3: of the x0 two and three steps before
    x_from_x0_prev3: float = 0.0


HISTORY = ("x_from_x0_prev", "x_from_x0_prev2", "x_from_x0_prev3")  # the last x0 first
SIGNAL_TOLERANCE = 1e-9


class Plan(tuple[Step, ...]):
    """The steps of one image, in the order they run; `len(plan)` is the number of function evaluations (NFE).

    Raises ValueError for a table that no sampler can mean: no steps, a coefficient that is not finite, a clip that is
    not positive, a negative noise, or a step that reads the x0 of a step before the first.

    `start_std`: standard deviation of the first state in the units of the later ones; the first step takes unit noise.
    `signal`: α_t and α_s of each step, where the solver has x = α·x0 + noise at both ends. Then a constant x0 must keep
    its share: R·α_t + S + H1 + H2 + H3 = α_s, or ValueError.
    """

    start_std: float
    signal: tuple[Any, Any] | None

    def __new__(cls, steps: Iterable[Step], start_std: float = 1.0, signal: tuple[Any, Any] | None = None) -> Self:
        plan = super().__new__(cls, steps)
        plan.start_std, plan.signal = start_std, signal
        if not plan:
            raise ValueError("a plan needs at least one step")
        for i, k in enumerate(plan):
            if not np.isfinite(k._replace(clip=0.0)).all():
                raise ValueError(f"step {i} has a coefficient that is not finite: {k}")
            if not k.clip > 0:
                raise ValueError(f"step {i} clips x0 to a bound that is not positive: clip = {k.clip}")
            if k.noise_std < 0:
                raise ValueError(f"step {i} has a negative noise: noise_std = {k.noise_std}")
        for before, name in enumerate(HISTORY):
            for i, k in enumerate(plan[: before + 1]):
                if (weight := getattr(k, name)) != 0:
                    raise ValueError(f"step {i} has no x0 {before + 1} steps before it, yet {name} = {weight}")
        if signal is not None:
            _check_signal(np.array(plan), *signal)
        return plan


def _check_signal(table: Any, alpha_t: Any, alpha_s: Any) -> None:
    columns = dict(zip(Step._fields, table.T, strict=True))
    kept = columns["x_from_x"] * alpha_t + columns["x_from_x0"] + sum(columns[name] for name in HISTORY)
    if (wrong := np.flatnonzero(np.abs(kept - alpha_s) > SIGNAL_TOLERANCE)).size:
        i = wrong[0]
        raise ValueError(f"step {i} makes {kept[i]} of a constant x0, in place of α_s = {alpha_s[i]}")


def with_history(k: Any, earlier: Sequence[Any]) -> tuple[Any, Any]:
    """k and x0_prev as `update` takes them, for a step whose `earlier` x0 are these, the last first.

    A step that reads more than the last has their weighted sum for x0_prev, with the factor 1.
    """
    weights = [getattr(k, name) for name in HISTORY[: len(earlier)]]
    return k._replace(x_from_x0_prev=1.0), sum(w * x0 for w, x0 in zip(weights, earlier, strict=True))


def update(k: Any, x: Any, out: Any, x0_prev: Any, noise: Any) -> tuple[Any, Any]:
    """One denoising step, written once for NumPy, PyTorch and the export: returns (x_new, x0), shaped like x.

    `k` holds the coefficients as `Step` names them: scalars, or arrays that broadcast against x (one value a row).
    For a network that learned its variance, `noise` is what the caller has multiplied by exp(log_std_from_v·v).
    """
    x0 = (k.x0_from_x * x + k.x0_from_out * out).clip(-k.clip, k.clip)
    x_new = k.x_from_x * x + k.x_from_x0 * x0 + k.x_from_out * out + k.x_from_x0_prev * x0_prev + k.noise_std * noise
    return x_new, x0
