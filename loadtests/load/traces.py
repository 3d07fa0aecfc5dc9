"""Open-loop traces: who asks for what, and when, whatever becomes of the answers."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

MIX = [("ddgan", 4, 0.4), ("ddim", 20, 0.3), ("vdm", 50, 0.2), ("ddim", 250, 0.1)]  # method, steps, share
BURST_S, CALM_S, BURST = 1.0, 4.0, 3.0  # so long at BURST times the mean rate, then so long at less
GOOD, GOOD_S = 5.0, 0.1  # an answer is good within so many times what it takes alone, or so many seconds


@dataclass(frozen=True)
class Class:
    """A kind of request of the mix."""

    method: str
    steps: int
    share: float

    @property
    def name(self) -> str:
        return f"{self.method} {self.steps}"


@dataclass(frozen=True)
class Call:
    at_s: float
    kind: Class
    seed: int


def classes(served: Iterable[str]) -> list[Class]:
    """The mix, of the models that are served; in place of another the one served that is used least."""
    use = dict.fromkeys(served, 0.0)
    for method, _, share in MIX:
        if method in use:
            use[method] += share
    made = []
    for method, steps, share in MIX:
        if method not in use:
            method = min(use, key=lambda name: use[name])
            use[method] += share
        made.append(Class(method, steps, share))
    return made


def poisson(kinds: list[Class], per_s: float, seconds: float, seed: int) -> list[Call]:
    rng = np.random.default_rng(seed)
    return drawn(kinds, seconds * np.sort(rng.random(rng.poisson(per_s * seconds))), rng)


def bursts(kinds: list[Class], per_s: float, seconds: float, seed: int) -> list[Call]:
    """Poisson arrivals whose rate is high for a while in every period, low in the rest, and the same in the mean."""
    rng = np.random.default_rng(seed)
    period_s = BURST_S + CALM_S
    calm = (period_s - BURST * BURST_S) / CALM_S
    times = seconds * np.sort(rng.random(rng.poisson(BURST * per_s * seconds)))
    keep = rng.random(len(times)) < np.where(times % period_s < BURST_S, 1.0, calm / BURST)
    return drawn(kinds, times[keep], rng)


def drawn(kinds: list[Class], times: np.ndarray, rng: np.random.Generator) -> list[Call]:
    """A call at each time, of a class by their shares; no two with the same seed."""
    chosen = rng.choice(len(kinds), len(times), p=[kind.share for kind in kinds])
    seeds = rng.choice(2**40, len(times), replace=False)
    return [Call(float(at), kinds[k], int(seed)) for at, k, seed in zip(times, chosen, seeds, strict=True)]
