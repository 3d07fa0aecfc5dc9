"""Writes docs/benchmarks/serving.md from raw/serving.json: `python -m loadtests.peers.document` writes it again."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGE, RAW, CHART = (
    DOCS / path for path in ("benchmarks/serving.md", "benchmarks/raw/serving.json", "images/peers.png")
)
BEGIN, END = "<!-- measured: written by ./run bench peers -->\n", "<!-- end of measured -->\n"
TABLE_LOADS = (0.5, 0.8, 1.5)  # light, nearly full, overloaded
STYLES: dict[str, dict[str, Any]] = {  # ours in colour
    "Trilemma": {"color": "#b35900", "linewidth": 3},
    "Trilemma, no deadlines": {"color": "#b35900", "linewidth": 2, "linestyle": "--"},
    "LitServe": {"color": "#222222", "marker": "s"},
    "BentoML": {"color": "#555555", "marker": "^"},
    "FastAPI, a lock": {"color": "#888888", "marker": "v"},
    "Ray Serve": {"color": "#bbbbbb", "marker": "D"},
}


def save(summary: Mapping[str, Any]) -> None:
    """Writes the figures' file, the page and the chart."""
    RAW.write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    write(summary, PAGE, CHART)


def write(summary: Mapping[str, Any], page: Path, chart: Path) -> None:
    """Puts the table between the page's two marks, and draws the chart."""
    draw(summary, chart)
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(before + BEGIN + "\n" + "\n".join(lines(summary)) + "\n\n" + END + after)


def lines(summary: Mapping[str, Any]) -> Iterator[str]:
    """The machine, and a table of TABLE_LOADS: latencies of the shortest and the longest class, goodput, refusals."""
    alone_ms: dict[str, float] = summary["alone_ms"]
    quick, slow = min(alone_ms, key=alone_ms.__getitem__), max(alone_ms, key=alone_ms.__getitem__)
    alone = ", ".join(f"{name} steps {ms:g} ms" for name, ms in alone_ms.items())
    yield f"{summary['machine']}, Poisson arrivals. Latency alone: {alone}."
    yield ""
    yield f"| load | server | {quick} steps, p99 ms | {slow} steps, p50 ms | goodput | refused |"
    yield "|--:|---|--:|--:|--:|--:|"
    for point in points(summary, "poisson"):
        if point["load"] in TABLE_LOADS:
            p99 = number(point["latency_ms"][quick], 2)
            p50 = number(point["latency_ms"][slow], 0)
            shares = f"{point['goodput']:.0%} | {point['refused']:.0%}"
            yield f"| {point['load']:g} | {point['server']} | {p99} | {p50} | {shares} |"


def points(summary: Mapping[str, Any], arrivals: str) -> list[dict[str, Any]]:
    """The points of one kind of arrivals, by load, ours first."""
    order = list(STYLES)
    return sorted(
        (point for point in summary["points"] if point["arrivals"] == arrivals),
        key=lambda point: (point["load"], order.index(point["server"])),
    )


def number(percentiles: list[float], place: int) -> str:
    return f"{percentiles[place]:,.0f}" if percentiles else "–"


def draw(summary: Mapping[str, Any], path: Path) -> None:
    """Draws the p99 slowdown of the shortest class and the goodput over the load, a line for each server."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for server, style in STYLES.items():
        own = [point for point in points(summary, "poisson") if point["server"] == server]
        loads = [point["load"] for point in own]
        line_style = {"marker": "o", "label": server, **style}
        left.plot(loads, [point["quick_slowdown"] for point in own], **line_style)
        right.plot(loads, [point["goodput"] for point in own], **line_style)
    left.set(yscale="log", xlabel="load (1 = capacity)", title="p99 slowdown of 4-step calls (lower is better)")
    right.set(xlabel="load (1 = capacity)", title="goodput (higher is better)", ylim=0)
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    write(json.loads(RAW.read_text()), PAGE, CHART)
