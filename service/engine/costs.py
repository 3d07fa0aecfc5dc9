"""What a step costs: seconds by model and number of rows, measured at warm-up and kept current; and an answer. Pure."""

import math
from bisect import bisect_left
from collections.abc import Mapping

import numpy as np

PRIOR_ROW_S = 1e-3  # a row's share of a step of a model that was never measured
WEIGHT = 0.1  # of a new measurement, and so the most by which ln(seconds) moves at once
SHAPE = (
    0.2  # of that weight: for the sizes near the one measured alone; the rest is for all, as what slows one slows all
)
PAYS = 0.95  # of the best throughput: a batch that is larger than needed for this much costs latency and buys nothing


class Curve:
    """Knots (rows, seconds), straight lines between them and in proportion past the last; the first is one row."""

    def __init__(self, knots: Mapping[int, float]) -> None:
        self.rows = sorted(knots)
        shares = np.interp(range(self.rows[-1] + 1), self.rows, range(len(self.rows))).tolist()  # knots from the first
        self.places = [(int(share), math.ceil(share), share % 1) for share in shares]
        self.set([knots[rows] for rows in self.rows])

    def set(self, seconds: list[float]) -> None:
        self.knots = seconds
        self.table = [seconds[left] + (seconds[right] - seconds[left]) * share for left, right, share in self.places]
        self.paying: dict[int, int] = {}  # by the most rows, as far as asked

    def seconds(self, rows: int) -> float:
        return self.table[rows] if rows < len(self.table) else self.table[-1] * rows / self.rows[-1]

    def observe(self, rows: int, seconds: float) -> None:
        """Moves all of it, and the nearest knots some more, towards a measurement: in logarithms and clipped."""
        error = WEIGHT * min(max(math.log(seconds / self.seconds(rows)), -1), 1)
        right = min(bisect_left(self.rows, rows), len(self.rows) - 1)
        left = max(right - 1, 0)
        nearness = (rows - self.rows[left]) / (self.rows[right] - self.rows[left]) if left < right else 1.0
        near = {left: 1 - min(nearness, 1.0), right: min(nearness, 1.0)}
        shares = (1 - SHAPE + SHAPE * near.get(knot, 0.0) for knot in range(len(self.rows)))
        self.set([value * math.exp(share * error) for value, share in zip(self.knots, shares, strict=True)])


class Costs:
    """A curve a model."""

    def __init__(self) -> None:
        self._curves: dict[str, Curve] = {}

    def set(self, model: str, curve: Mapping[int, float]) -> None:
        """Seconds a step by rows, as measured at warm-up; the smallest number of rows is 1."""
        self._curves[model] = Curve(curve)

    def observe(self, model: str, rows: int, seconds: float) -> None:
        if model not in self._curves:
            self.set(model, {1: seconds / rows, rows: seconds})
        self._curves[model].observe(rows, seconds)

    def seconds(self, model: str, rows: int) -> float:
        """Of one step of `rows` rows."""
        return self._curves[model].seconds(rows) if model in self._curves else PRIOR_ROW_S * rows

    def paying(self, model: str, most: int) -> int:
        """The smallest batch of at most `most` rows with PAYS of the best throughput; `most` if not measured."""
        if model not in self._curves:
            return most
        curve = self._curves[model]
        if most not in curve.paying:
            throughput = [rows / curve.seconds(rows) for rows in range(1, most + 1)]
            enough = PAYS * max(throughput)
            curve.paying[most] = next(i for i, each in enumerate(throughput, start=1) if each >= enough)
        return curve.paying[most]


class Tail:
    """A running 90th percentile: what exceeds it moves it up by nine times as much as the rest moves it down."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def observe(self, seconds: float) -> None:
        self.seconds *= math.exp(0.045 if seconds > self.seconds else -0.005)
