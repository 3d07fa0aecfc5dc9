"""Every sampler as a table: the step, the plan, and the update that reads them.

Notation, as in the papers: a step goes from time t to time s, nearer the data. ᾱ (`alphas_cumprod`) is the cumulative
signal power, α = √ᾱ and σ = √(1 − ᾱ), so x_t = α_t·x0 + σ_t·ε. Coefficients are computed in float64; NumPy only.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple, Self

import numpy as np


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
