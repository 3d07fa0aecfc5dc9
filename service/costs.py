"""What a step costs: seconds by model and number of rows, measured at warm-up and kept current. Pure."""

import math
from bisect import bisect_left
from collections.abc import Mapping

import numpy as np

PRIOR_ROW_S = 1e-3  # a row's share of a step of a model that was never measured
WEIGHT = 0.1  # of a new measurement, and so the most by which ln(seconds) moves at once
PAYS = 0.95  # of the best throughput: a batch that is larger than needed for this much costs latency and buys nothing


class Costs:
    """A curve a model: knots (rows, seconds), straight lines between. The engine's thread alone calls `observe`."""

    def __init__(self) -> None:
        self._curves: dict[str, tuple[list[int], list[float]]] = {}
        self._paying: dict[tuple[str, int], int] = {}  # what `paying` found, until the next measurement

    def set(self, model: str, curve: Mapping[int, float]) -> None:
        """Seconds a step by rows, as measured at warm-up; the smallest number of rows is 1."""
        rows = sorted(curve)
        self._curves[model] = rows, [curve[n] for n in rows]
        self._paying = {}

    def observe(self, model: str, rows: int, seconds: float) -> None:
        """Moves the curve near `rows` towards a step's time; in logarithms and clipped: a stall moves little."""
        if model not in self._curves:
            self.set(model, {1: seconds / rows, rows: seconds})
        knots, values = self._curves[model]
        error = min(max(math.log(seconds / self.seconds(model, rows)), -1), 1)
        right = min(bisect_left(knots, rows), len(knots) - 1)
        left = max(right - 1, 0)
        nearness = float(np.interp(rows, [knots[left], knots[right]], [0, 1])) if left < right else 1.0
        values[right] *= math.exp(WEIGHT * nearness * error)
        values[left] *= math.exp(WEIGHT * (1 - nearness) * error)
        self._paying = {}

    def seconds(self, model: str, rows: int) -> float:
        """Of one step of `rows` rows; past the last knot, in proportion."""
        if model not in self._curves:
            return PRIOR_ROW_S * rows
        knots, values = self._curves[model]
        return float(np.interp(rows, knots, values)) * max(1.0, rows / knots[-1])

    def paying(self, model: str, most: int) -> int:
        """The smallest batch of at most `most` rows with nearly the best throughput; `most` for an unmeasured model."""
        if model not in self._curves:
            return most
        found = self._paying.get((model, most))  # read once: the engine's thread forgets it between two lines
        if found is None:
            throughput = [rows / self.seconds(model, rows) for rows in range(1, most + 1)]
            enough = PAYS * max(throughput)
            found = next(i for i, each in enumerate(throughput, start=1) if each >= enough)
            self._paying[model, most] = found
        return found
