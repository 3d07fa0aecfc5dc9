"""Every sampler as a table: the step, the plan, and the update that reads them.

Notation, as in the papers: a step goes from time t to time s, nearer the data. ᾱ (`alphas_cumprod`) is the cumulative
signal power, α = √ᾱ and σ = √(1 − ᾱ), so x_t = α_t·x0 + σ_t·ε. Coefficients are computed in float64; NumPy only.
"""

from collections.abc import Iterable
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


class Plan(tuple[Step, ...]):
    """The steps of one image, in the order they run; `len(plan)` is the number of function evaluations (NFE).

    Raises ValueError for a table that no sampler can mean: no steps, a coefficient that is not finite, a clip that is
    not positive, a negative noise, or a first step that reads the x0 of a step before it.

    `start_std`: standard deviation of the first state in the units of the later ones; the first step takes unit noise.
    """

    start_std: float

    def __new__(cls, steps: Iterable[Step], start_std: float = 1.0) -> Self:
        plan = super().__new__(cls, steps)
        plan.start_std = start_std
        if not plan:
            raise ValueError("a plan needs at least one step")
        for i, k in enumerate(plan):
            if not np.isfinite(k._replace(clip=0.0)).all():
                raise ValueError(f"step {i} has a coefficient that is not finite: {k}")
            if not k.clip > 0:
                raise ValueError(f"step {i} clips x0 to a bound that is not positive: clip = {k.clip}")
            if k.noise_std < 0:
                raise ValueError(f"step {i} has a negative noise: noise_std = {k.noise_std}")
        if plan[0].x_from_x0_prev != 0:
            raise ValueError(f"the first step has no x0 before it, yet x_from_x0_prev = {plan[0].x_from_x0_prev}")
        return plan


def update(k: Any, x: Any, out: Any, x0_prev: Any, noise: Any) -> tuple[Any, Any]:
    """One denoising step, written once for NumPy, PyTorch and the export: returns (x_new, x0), shaped like x.

    `k` holds the coefficients as `Step` names them: scalars, or arrays that broadcast against x (one value a row).
    For a network that learned its variance, `noise` is what the caller has multiplied by exp(log_std_from_v·v).
    """
    x0 = (k.x0_from_x * x + k.x0_from_out * out).clip(-k.clip, k.clip)
    x_new = k.x_from_x * x + k.x_from_x0 * x0 + k.x_from_out * out + k.x_from_x0_prev * x0_prev + k.noise_std * noise
    return x_new, x0
