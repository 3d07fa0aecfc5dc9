"""Plans in the other direction: from an image to the x_T that a deterministic plan makes it of. NumPy only."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from models.step import HISTORY, Plan, Step


def is_invertible(plan: Iterable[Step]) -> bool:
    """Whether each step goes from x and the network's output alone: without fresh noise, and without an earlier x0."""
    return not any(k.noise_std or any(getattr(k, name) for name in HISTORY) for k in plan)


def inverse(plan: Plan) -> Plan:
    """The invertible plan backwards, two steps for each of its own: DDIM inversion (Song et al. 2020, eq. 14).

    A step x_s = A·x_t + B·out(x_t, t), unclipped, gives x_t = (x_s − B·out(x_t, t))/A, with x_t on both sides. So the
    first step takes out(x_s, t), and the second repeats it with the x_t of the first: a fixed-point iteration (Pan et
    al. 2023, arXiv 2309.04907). As `x0` is the output itself, that is x + B/A·(x0_prev − out).
    """
    steps = []
    for i, k in reversed(list(enumerate(plan))):
        from_x = k.x_from_x + k.x_from_x0 * k.x0_from_x
        from_out = (k.x_from_x0 * k.x0_from_out + k.x_from_out) / from_x
        shared = Step(t=k.t, x0_from_out=1.0, x_from_out=-from_out, network_from_x=k.network_from_x)
        scale = 1.0 if i else plan.start_std  # of x_s, in units of x_t
        steps += [
            shared._replace(x_from_x=1 / from_x, network_from_x=k.network_from_x / scale),
            shared._replace(x_from_x=1.0, x_from_x0_prev=from_out),
        ]
    return Plan(steps)


def begun_at(coefficients: NDArray[np.float32], first: int) -> NDArray[np.float32]:
    """The steps of a plan (steps, columns) from this one on.

    A step that would read an x0 from before them takes its own x0 in its place, which is what a multistep method of
    lower order does.
    """
    rest = coefficients[first:].copy()
    own = Step._fields.index("x_from_x0")
    for reach, name in enumerate(HISTORY):
        column = Step._fields.index(name)
        rest[: reach + 1, own] += rest[: reach + 1, column]
        rest[: reach + 1, column] = 0
    return rest
