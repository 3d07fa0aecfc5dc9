"""A running quantile of a stream of times, in constant memory."""

import math

STEP = 0.05  # how far, in logarithms, one observation above and one below move the estimate apart


class RunningQuantile:
    """The estimate rises by `share`·STEP above itself and falls by (1 − share)·STEP below, so it rests at the quantile.

    Stochastic approximation (Robbins and Monro 1951), in logarithms.
    """

    def __init__(self, seconds: float, share: float = 0.9) -> None:
        self.seconds = seconds
        self._rise, self._fall = share * STEP, (1 - share) * STEP

    def observe(self, seconds: float) -> None:
        self.seconds *= math.exp(self._rise if seconds > self.seconds else -self._fall)
