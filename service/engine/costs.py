"""The cost model: seconds of a step by model and rows, and of a preview; measured at warm-up and kept current. Pure."""

import math
from bisect import bisect_left
from collections.abc import Mapping

PRIOR_ROW_S = 1e-3  # a row's share of a step of a model that was never measured
WEIGHT = 0.1  # of a new measurement: one measurement changes ln(seconds) by at most this
LOCAL_SHARE = 0.2  # of that weight is for the measured size; the rest is for all sizes, which mostly slow down together
THROUGHPUT_TARGET = 0.95  # of the best throughput: larger batches cost latency and gain less than the remaining share


class Curve:
    """Seconds by rows: linear between knots (rows, seconds), and proportional to the rows past the last knot.

    The first knot is at one row.
    """

    def __init__(self, knots: Mapping[int, float]) -> None:
        self.rows = sorted(knots)
        self._places = [self._place(rows) for rows in range(self.rows[-1] + 1)]
        self._set([knots[rows] for rows in self.rows])

    def seconds(self, rows: int) -> float:
        """Seconds of one step of `rows` rows."""
        return self._by_rows[rows] if rows < len(self._by_rows) else self._by_rows[-1] * rows / self.rows[-1]

    def observe(self, rows: int, seconds: float) -> None:
        """Moves all knots towards a measurement, the nearest ones most."""
        error = _change(self.seconds(rows), seconds)
        left, right, share = self._place(rows)
        near = {left: 1 - share, right: share} if left < right else {right: 1.0}
        weights = (1 - LOCAL_SHARE + LOCAL_SHARE * near.get(knot, 0.0) for knot in range(len(self.rows)))
        self._set([value * math.exp(weight * error) for value, weight in zip(self.knots, weights, strict=True)])

    def efficient_batch_size(self, most: int) -> int:
        """The smallest batch of at most `most` rows with THROUGHPUT_TARGET of the best throughput."""
        if most not in self._efficient:
            throughput = [rows / self.seconds(rows) for rows in range(1, most + 1)]
            target = THROUGHPUT_TARGET * max(throughput)
            self._efficient[most] = next(rows for rows, value in enumerate(throughput, start=1) if value >= target)
        return self._efficient[most]

    def _set(self, seconds: list[float]) -> None:
        self.knots = seconds
        self._by_rows = [
            seconds[left] + (seconds[right] - seconds[left]) * share for left, right, share in self._places
        ]
        self._efficient: dict[int, int] = {}  # by the most rows

    def _place(self, rows: int) -> tuple[int, int, float]:
        """The knots left and right of `rows`, and how far it is from the left one to the right one, in [0, 1]."""
        right = min(bisect_left(self.rows, rows), len(self.rows) - 1)
        left = max(right - 1, 0)
        if left == right:
            return left, right, 1.0
        return left, right, min((rows - self.rows[left]) / (self.rows[right] - self.rows[left]), 1.0)


class Costs:
    """The curves of all models."""

    def __init__(self) -> None:
        self._curves: dict[str, Curve] = {}
        self._preview_s: dict[str, float] = {}

    def set(self, model: str, curve: Mapping[int, float], preview_s: float = 0.0) -> None:
        """Sets a model's seconds a step by rows, as measured at warm-up, and a preview's; the first rows are 1."""
        self._curves[model] = Curve(curve)
        self._preview_s[model] = preview_s

    def observe(self, model: str, rows: int, seconds: float) -> None:
        """Updates a model's curve by a measured step; starts one for a model without."""
        if model not in self._curves:
            self.set(model, {1: seconds / rows, rows: seconds})
        self._curves[model].observe(rows, seconds)

    def observe_preview(self, model: str, seconds: float) -> None:
        """Updates the seconds of a preview by a measurement."""
        before_s = self._preview_s.get(model) or seconds
        self._preview_s[model] = before_s * math.exp(_change(before_s, seconds))

    def preview_seconds(self, model: str) -> float:
        """Seconds of decoding one image's state, beside its step."""
        return self._preview_s.get(model, 0.0)

    def seconds(self, model: str, rows: int) -> float:
        """Seconds of one step of `rows` rows."""
        return self._curves[model].seconds(rows) if model in self._curves else PRIOR_ROW_S * rows

    def efficient_batch_size(self, model: str, most: int) -> int:
        """The smallest batch of at most `most` rows with nearly the best throughput; `most` if not measured."""
        return self._curves[model].efficient_batch_size(most) if model in self._curves else most


def _change(expected_s: float, measured_s: float) -> float:
    """What a measurement adds to the logarithm of the seconds that are expected; the error is clipped to ±1."""
    return WEIGHT * min(max(math.log(measured_s / expected_s), -1), 1)
