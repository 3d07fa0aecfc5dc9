"""Times to begin from: even in the log of the signal-to-noise ratio, or of the least curvature along trajectories.

A time is a place in the plan of the most steps; `alpha` has α at each of them, rising.
"""

import numpy as np
from numpy.typing import NDArray

from models.schedules import Vector
from service.engine.runtime import Array

Times = NDArray[np.int64]


def even(alpha: Vector, steps: int) -> Times:
    """The places nearest to evenly spaced λ = log(α/σ), of which each is later than the one before."""
    log_snr = np.log(alpha / np.sqrt(1 - alpha**2))
    targets = np.linspace(log_snr[0], log_snr[-1], steps, endpoint=False)
    nearest = np.abs(log_snr - targets[:, None]).argmin(axis=1)
    index = np.arange(steps)
    places = np.maximum.accumulate(nearest - index) + index
    return np.minimum(places, len(alpha) - steps + index)


def jump_costs(x: Array, x0: Array, alpha: Vector, sigma: Vector) -> Vector:
    """(steps, steps + 1): the error of one step of first order from place i of the trajectories to place j > i.

    x (steps + 1, n, C, H, W) are their states and x0 (steps, n, C, H, W) their x0; α and σ have the end too. The error
    is in x/α, root mean square; GITS (Chen et al. 2024, arXiv 2405.11326) sums it over a plan.
    """
    steps = len(x0)
    scaled, level = x / alpha.reshape(-1, 1, 1, 1, 1), sigma / alpha
    costs = np.full((steps, steps + 1), np.inf)
    for i in range(steps):
        for j in range(i + 1, steps + 1):
            ratio = level[j] / level[i]
            costs[i, j] = np.sqrt(np.square(scaled[j] - ratio * scaled[i] - (1 - ratio) * x0[i]).mean())
    return costs


def cheapest(costs: Vector, jumps: int) -> Times:
    """The places that `jumps` jumps from the first place to the last start from, with the least sum of costs."""
    places = costs.shape[1]
    best, previous = np.full(places, np.inf), []
    best[0] = 0.0
    for _ in range(jumps):
        totals = best[:-1, None] + costs
        previous.append(totals.argmin(axis=0))
        best = totals.min(axis=0)
    path, place = [], places - 1
    for before in reversed(previous):
        place = int(before[place])
        path.append(place)
    return np.array(path[::-1])
