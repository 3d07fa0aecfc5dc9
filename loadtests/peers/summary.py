"""The comparison as tables and a plot in docs/performance.md, between two marks."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from loadtests.load.traces import GOOD, GOOD_S
from loadtests.peers.servers import UNTOLD

mpl.use("Agg")
from matplotlib import pyplot

ROOT = Path(__file__).parent.parent.parent
DOCUMENT, PLOT = ROOT / "docs" / "performance.md", ROOT / "docs" / "images" / "peers.png"
BEGIN, END = "<!-- peers -->\n", "<!-- end of peers -->\n"
REFUSED = (429, 503)
SETTLED_S = 5.0  # from a point's start; before, a server has less under way than is cut off at the end

Point = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """What became of a server's calls at a load. A slowdown is a latency over what the class takes alone."""

    latency_ms: dict[str, tuple[float, float, float]]  # by class: p50, p95, p99 of the answers
    quick_slowdown: float  # p99 of the class of the fewest steps
    slowdown: float  # p99 of all
    good: float  # share of the answers
    goodput: float  # work of good answers from SETTLED_S to the trace's end, as a share of the capacity
    rejected: float  # share of the calls
    lost: float  # share of the calls
    refusal_ms: float  # p99
    memory_mb: tuple[float, float]  # before and after


def row(points: Sequence[Point], measured: Mapping[str, Any]) -> Row:
    """Of one or more rounds."""
    alone_s = measured["alone_s"]
    calls = [(name, *call) for point in points for name, each in point["calls"].items() for call in each]
    answers = [(name, at_s, took_s) for name, at_s, status, took_s in calls if status == 200]
    refusals = [took_s for _, _, status, took_s in calls if status in REFUSED]
    good = [(n, at_s + took_s) for n, at_s, took_s in answers if took_s <= max(GOOD * alone_s[n], GOOD_S)]
    seconds = points[0]["seconds"]
    worth_s = sum(alone_s[name] for name, end_s in good if SETTLED_S <= end_s <= seconds)
    quick = min(alone_s, key=lambda name: alone_s[name])
    return Row(
        {name: tuple(1000 * percentiles([t for n, _, t in answers if n == name], 50, 95, 99)) for name in alone_s},
        percentiles([took_s / alone_s[n] for n, _, took_s in answers if n == quick], 99)[0],
        percentiles([took_s / alone_s[n] for n, _, took_s in answers], 99)[0],
        len(good) / max(1, len(answers)),
        worth_s / (seconds - SETTLED_S) / sum(point["capacity"] for point in points),
        len(refusals) / len(calls),
        (len(calls) - len(answers) - len(refusals)) / len(calls),
        1000 * percentiles(refusals, 99)[0],
        (points[0]["memory_mb"][0], points[0]["memory_mb"][1]),
    )


def percentiles(values: Sequence[float], *shares: float) -> np.ndarray:
    return np.percentile(values, shares) if len(values) else np.full(len(shares), np.nan)


def saturated(measured: Mapping[str, Any]) -> Iterator[str]:
    """Each server's throughput as a share of ours in the median, by its tuning."""
    capacity = statistics.median(each["work"] for each in measured["saturated"][UNTOLD.name])
    yield "| saturated: 32 calls at a time | of our work in the median; (processes, threads, largest batch) |"
    yield "|---|---|"
    for server, tried in measured["saturated"].items():
        cells = []
        for each in tried:
            tuning = "" if server == UNTOLD.name else " ({workers}, {threads}, {max_batch})".format(**each["tuning"])
            cells.append(f"{each['work'] / capacity:.2f}{tuning}")
        yield f"| {server} | " + ", ".join(cells) + " |"


def table(arrivals: str, measured: Mapping[str, Any]) -> Iterator[str]:
    names = list(measured["alone_s"])
    yield (
        "| load | server | "
        + " | ".join(f"{name} steps" for name in names)
        + " | p99 slowdown, quickest | all | good | goodput | rejected, within (p99) | lost | memory, MB |"
    )
    yield "|---|---|" + "---|" * (len(names) + 7)
    for load, server, points in groups(arrivals, measured):
        yield line(load, server, row(points, measured))


def groups(arrivals: str, measured: Mapping[str, Any]) -> Iterator[tuple[float, str, list[Point]]]:
    """The points of each load and server, in the order in which they were first measured."""
    points = [point for point in measured["points"] if point["arrivals"] == arrivals]
    for load in sorted({point["load"] for point in points}):
        for server in dict.fromkeys(point["server"] for point in points):
            if own := [point for point in points if (point["load"], point["server"]) == (load, server)]:
                yield load, server, own


def line(load: float, server: str, row: Row) -> str:
    cells = [" / ".join(number(ms) for ms in latency_ms) for latency_ms in row.latency_ms.values()]
    cells += [f"{row.quick_slowdown:.1f}", f"{row.slowdown:.1f}", f"{row.good:.1%}", f"{row.goodput:.0%}"]
    cells += [f"{row.rejected:.0%}" + (f", {row.refusal_ms:.0f} ms" if row.rejected else ""), f"{row.lost:.0%}"]
    cells += ["{:.0f} → {:.0f}".format(*row.memory_mb)]
    return f"| {load:g} | {server} | " + " | ".join(cells) + " |"


def number(ms: float) -> str:
    return "–" if np.isnan(ms) else f"{ms:,.0f}"


def draw(measured: Mapping[str, Any], path: Path) -> None:
    """The quickest class' p99 slowdown and the goodput, over the load, a line a server."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    rows = [(load, server, row(points, measured)) for load, server, points in groups("poisson", measured)]
    for server in dict.fromkeys(server for _, server, _ in rows):
        loads = [load for load, each, _ in rows if each == server]
        own = [made for _, each, made in rows if each == server]
        left.plot(loads, [each.quick_slowdown for each in own], marker="o", label=server)
        right.plot(loads, [each.goodput for each in own], marker="o", label=server)
    left.set(yscale="log", xlabel="load, of the capacity", title="p99 slowdown of the quickest class")
    right.set(xlabel="load, of the capacity", title="goodput, of the capacity", ylim=0)
    right.legend(fontsize="small")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def write(measured: Mapping[str, Any], machine: str) -> None:
    draw(measured, PLOT)
    alone = ", ".join(f"{name} steps {1000 * alone_s:.1f} ms" for name, alone_s in measured["alone_s"].items())
    lines = [
        f"{machine}. Alone: {alone}.",
        "",
        *saturated(measured),
        "",
        f"![slowdown and goodput over the load]({PLOT.relative_to(DOCUMENT.parent)})",
    ]
    for arrivals in dict.fromkeys(point["arrivals"] for point in measured["points"]):
        seconds = next(point["seconds"] for point in measured["points"] if point["arrivals"] == arrivals)
        lines += ["", f"{arrivals.capitalize()}, {seconds:g} s a point and round; p50 / p95 / p99 in milliseconds:", ""]
        lines += table(arrivals, measured)
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(before + BEGIN + "\n" + "\n".join(lines) + "\n\n" + END + after)
