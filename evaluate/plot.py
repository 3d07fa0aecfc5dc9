"""The Fréchet distance against latency: a colour a method, a marker a solver."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import matplotlib

from bundle.manifest import MeasuredPoint, Quality

matplotlib.use("Agg")
from matplotlib import pyplot, ticker

NAME = "trilemma"  # of the file
MARKERS = ("o", "s", "^", "D", "v")  # by solver, in each method's own order
LINES = ("-", "--", ":", "-.", "-")

Points = Sequence[MeasuredPoint]


def draw(methods: Mapping[str, Points], training_images: Quality | None, path: Path) -> None:
    """Writes a plot to `path` with the suffixes .svg and .png.

    It has a line for each method and solver, with the number of steps at each point, and one for the training images.
    """
    figure, axes = pyplot.subplots(figsize=(8, 5.5), layout="constrained")
    for number, (name, points) in enumerate(methods.items()):
        for style, (name_of_solver, line) in enumerate(by_solver(points)):
            axes.plot(
                [point.alone_ms for point in line],
                [point.frechet_distance for point in line],
                linestyle=LINES[style % len(LINES)],
                marker=MARKERS[style % len(MARKERS)],
                markersize=5,
                color=f"C{number}",
                label=f"{name}, {name_of_solver}",
            )
            for point in line:
                at = (point.alone_ms, point.frechet_distance)
                axes.annotate(str(point.steps), at, (4, 4), textcoords="offset points", fontsize=7)
    if training_images:
        axes.axhline(training_images.frechet_distance, color="grey", linewidth=0.8, label="training images")
    axes.set(xscale="log", yscale="log", xlabel="ms for one image alone", ylabel="Fréchet distance to the test set")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(ticker.NullFormatter())
    axes.legend(fontsize=8, handlelength=3.5)
    with pyplot.rc_context({"svg.hashsalt": NAME}):  # equal points give equal bytes
        figure.savefig(f"{path}.svg", metadata={"Date": None})
    figure.savefig(f"{path}.png", dpi=120)
    pyplot.close(figure)


def by_solver(points: Points) -> Iterator[tuple[str, Points]]:
    """The points of each solver with its settings, in order of steps."""
    for name in dict.fromkeys(map(solver, points)):
        yield name, sorted((point for point in points if solver(point) == name), key=lambda point: point.steps)


def solver(point: MeasuredPoint) -> str:
    """The solver and its settings, e.g. "ddim eta=0"."""
    return " ".join([point.solver, *(f"{name}={value:g}" for name, value in sorted(point.settings.items()))])
