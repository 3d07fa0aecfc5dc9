"""The figures of the comparison: a row for each server at each load."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from loadtests.peers.servers import NO_DEADLINES
from service.engine.workload import good_s

REFUSED = (429, 503)
SETTLED_S = 5.0  # from a point's start to the first answer that counts for goodput: before, the queues are filling

Point = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """The figures of a server's calls at a load. A slowdown is a latency over the class's latency alone."""

    arrivals: str
    load: float  # of the capacity
    server: str
    seconds: float  # of each round
    rounds: int
    latency_ms: dict[str, list[float]]  # by class: p50, p95, p99 of the answers; empty without answers
    quick_slowdown: float | None  # p99 of the class of the fewest steps
    slowdown: float | None  # p99 of all
    good: float  # share of the answers
    goodput: float  # work of good answers from SETTLED_S to the trace's end, as a share of the capacity
    refused: float  # share of the calls
    refusal_ms: float | None  # p99
    lost: float  # share of the calls
    memory_mb: list[float]  # before and after


def row(points: Sequence[Point], measured: Mapping[str, Any]) -> Row:
    """The row of one or more rounds of one server at one load."""
    alone_s = measured["alone_s"]
    calls = [(name, *call) for point in points for name, calls in point["calls"].items() for call in calls]
    answers = [(name, at_s, latency_s) for name, at_s, status, latency_s in calls if status == 200]
    refusals = [latency_s for _, _, status, latency_s in calls if status in REFUSED]
    good = [(n, at_s + latency_s) for n, at_s, latency_s in answers if latency_s <= good_s(alone_s[n])]
    seconds = points[0]["seconds"]
    good_work_s = sum(alone_s[name] for name, end_s in good if SETTLED_S <= end_s <= seconds)
    quick = min(alone_s, key=lambda name: alone_s[name])
    return Row(
        **{name: points[0][name] for name in ("arrivals", "load", "server", "seconds")},
        rounds=len(points),
        latency_ms={name: percentiles([1000 * t for n, _, t in answers if n == name], 50, 95, 99) for name in alone_s},
        quick_slowdown=percentile([latency_s / alone_s[n] for n, _, latency_s in answers if n == quick], 99),
        slowdown=percentile([latency_s / alone_s[n] for n, _, latency_s in answers], 99),
        good=len(good) / max(1, len(answers)),
        goodput=good_work_s / (seconds - SETTLED_S) / sum(point["capacity"] for point in points),
        refused=len(refusals) / len(calls),
        refusal_ms=percentile([1000 * latency_s for latency_s in refusals], 99),
        lost=(len(calls) - len(answers) - len(refusals)) / len(calls),
        memory_mb=list(points[0]["memory_mb"]),
    )


def percentiles(values: Sequence[float], *shares: float) -> list[float]:
    """The percentiles of the values, rounded to three decimals; empty without values."""
    return np.percentile(values, shares).round(3).tolist() if len(values) else []


def percentile(values: Sequence[float], share: float) -> float | None:
    return next(iter(percentiles(values, share)), None)


def summary(measured: Mapping[str, Any], machine: str) -> dict[str, Any]:
    """All that the page shows, as JSON."""
    capacity = statistics.median(run["work"] for run in measured["saturated"][NO_DEADLINES.name])
    return {
        "machine": machine,
        "alone_ms": {name: round(1000 * alone_s, 1) for name, alone_s in measured["alone_s"].items()},
        "saturated": [
            {"server": server, **(run["tuning"] if server != NO_DEADLINES.name else {}), "work": run["work"] / capacity}
            for server, runs in measured["saturated"].items()
            for run in runs
        ],
        "points": [asdict(row(points, measured)) for points in groups(measured["points"])],
    }


def groups(points: Sequence[Point]) -> Iterator[list[Point]]:
    """The rounds of each kind of arrivals, load and server, in the order in which they were first measured."""
    for arrivals in dict.fromkeys(point["arrivals"] for point in points):
        own = [point for point in points if point["arrivals"] == arrivals]
        for load in sorted({point["load"] for point in own}):
            for server in dict.fromkeys(point["server"] for point in own):
                if rounds := [point for point in own if (point["load"], point["server"]) == (load, server)]:
                    yield rounds


def line(row: Row) -> str:
    """A row for the terminal."""
    return f"load {row.load:g}, {row.server}: {row.goodput:.0%} goodput, {row.refused:.0%} refused, {row.latency_ms}"
