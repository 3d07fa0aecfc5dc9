"""Open-loop traces: which request is sent at which time, independent of the answers."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from service.engine.workload import MIX, Class

BURST_S, CALM_S = 1.0, 4.0  # duration of a burst, and of the lower rate after it
BURST = 3.0  # rate in a burst, in units of the mean rate


@dataclass(frozen=True)
class Call:
    """A request, and the seconds from the trace's start at which it is sent."""

    at_s: float
    kind: Class
    seed: int


def classes(served: Iterable[str]) -> list[Class]:
    """The mix over the served models; the least used of them stands in for one that is not served."""
    shares = dict.fromkeys(served, 0.0)
    for kind in MIX:
        if kind.method in shares:
            shares[kind.method] += kind.share
    kinds = []
    for kind in MIX:
        method = kind.method if kind.method in shares else min(shares, key=shares.__getitem__)
        if method != kind.method:
            shares[method] += kind.share
        kinds.append(replace(kind, method=method))
    return kinds


def poisson(kinds: list[Class], per_s: float, seconds: float, seed: int) -> list[Call]:
    """Poisson arrivals at a rate of `per_s`."""
    rng = np.random.default_rng(seed)
    return drawn(kinds, seconds * np.sort(rng.random(rng.poisson(per_s * seconds))), rng)


def bursts(kinds: list[Class], per_s: float, seconds: float, seed: int) -> list[Call]:
    """Poisson arrivals at BURST times `per_s` for BURST_S, then at a lower rate for CALM_S, with the mean `per_s`."""
    rng = np.random.default_rng(seed)
    period_s = BURST_S + CALM_S
    calm = (period_s - BURST * BURST_S) / CALM_S
    times = seconds * np.sort(rng.random(rng.poisson(BURST * per_s * seconds)))
    keep = rng.random(len(times)) < np.where(times % period_s < BURST_S, 1.0, calm / BURST)
    return drawn(kinds, times[keep], rng)


def drawn(kinds: list[Class], times: np.ndarray, rng: np.random.Generator) -> list[Call]:
    """A call at each time, with its class drawn by the shares; all seeds differ."""
    chosen = rng.choice(len(kinds), len(times), p=[kind.share for kind in kinds])
    seeds = rng.choice(2**40, len(times), replace=False)
    return [Call(float(at), kinds[k], int(seed)) for at, k, seed in zip(times, chosen, seeds, strict=True)]
