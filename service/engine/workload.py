"""The reference workload of benchmarks and simulations: its mix of requests, and what a good answer is."""

from dataclasses import dataclass

GOOD_FACTOR, GOOD_S = 5.0, 0.1


@dataclass(frozen=True)
class Class:
    """A class of requests of the mix."""

    method: str
    steps: int
    share: float  # of the requests

    @property
    def name(self) -> str:
        return f"{self.method} {self.steps}"


MIX = (Class("ddgan", 4, 0.4), Class("ddim", 20, 0.3), Class("vdm", 50, 0.2), Class("ddim", 250, 0.1))


def good_s(alone_s: float) -> float:
    """Seconds within which an answer is good: GOOD_FACTOR times its latency alone, and at least GOOD_S."""
    return max(GOOD_FACTOR * alone_s, GOOD_S)
