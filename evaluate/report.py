"""Writes what is measured into docs/trilemma.md, between two marks, with a plot; what stands around it is kept."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot, ticker

BEGIN, END = "<!-- measured: written by ./run evaluate -->", "<!-- end of measured -->"
PLOT = "trilemma"  # .svg and .png, in the folder images beside the report
HEADER = (
    "| method | solver | steps | images | Fréchet distance | precision | recall | class agreement | class coverage | "
    "class entropy (bits) | ms alone | ms saturated |\n|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
)
BOUNDS = "| bits per dimension of the test set | prior | reconstruction | diffusion | total |\n|---|--:|--:|--:|--:|"
AUTOENCODERS = "| squared error of the autoencoder | of a test image | of a latent z from N(0, I) |\n|---|--:|--:|"
SPREADS = "| standard deviation of x0 over z, from one x_t | of the pixels | where it is largest |\n|---|--:|--:|"

Points = list[dict[str, Any]]


def write(path: Path, bundles: Path) -> None:
    """Puts the table of all bundles' measured points into the report at `path`, and the plot beside it."""
    manifests = [json.loads(file.read_text()) for file in sorted(bundles.glob("[!.]*/manifest.json"))]
    measured = {each["name"]: each["measured"] for each in manifests if each["measured"].get("points")}
    if not measured:
        return
    before, after = f"# The trilemma, measured\n\n{BEGIN}", f"{END}\n"
    if path.exists():
        text = path.read_text()
        before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    (path.parent / "images").mkdir(parents=True, exist_ok=True)
    path.write_text(f"{before}\n\n{table(measured)}\n\n![Distance against time](images/{PLOT}.svg)\n\n{after}")
    plot(measured, path.parent / "images")


def table(measured: dict[str, dict[str, Any]]) -> str:
    """A line a point, and last the floor: training images in place of generated ones."""
    some = next(iter(measured.values()))
    quality = (
        "{images:,} | {frechet_distance:.2f} | {precision:.3f} | {recall:.3f} | "
        "{class_agreement:.1%} | {class_coverage:.0%} | {class_entropy:.3f}"
    )
    lines = [
        f"| {name} | {way(point)} | {point['steps']} | {quality.format(**point)} | "
        f"{point['alone_ms']:.1f} | {point['saturated_ms']:.1f} |"
        for name, each in measured.items()
        for point in sorted(each["points"], key=lambda point: (way(point), point["steps"]))
    ]
    floor = f"| *training images* | | | {quality.format(**some['floor'])} | | |"
    bounds = [
        f"| {name}, {timesteps} | " + " | ".join(f"{term:.4f}" for term in terms.values()) + " |"
        for name, each in measured.items()
        for timesteps, terms in each.get("bits_per_dimension", {}).items()
    ]
    autoencoders = [
        f"| {name} | {each['autoencoder']['reconstruction']:.4f} | {each['autoencoder']['consistency']:.4f} |"
        for name, each in measured.items()
        if "autoencoder" in each
    ]
    spreads = [
        f"| {name}, {timestep} | {spread['pixels']:.3f} | {spread['largest']:.3f} |"
        for name, each in measured.items()
        for timestep, spread in each.get("spread", {}).items()
    ]
    tables = [[HEADER, *lines, floor]]
    others = ((BOUNDS, bounds), (AUTOENCODERS, autoencoders), (SPREADS, spreads))
    tables += [[head, *rows] for head, rows in others if rows]
    return "\n\n".join([f"Measured on {some['machine']}.", *("\n".join(rows) for rows in tables)])


def plot(measured: dict[str, dict[str, Any]], folder: Path) -> None:
    """The Fréchet distance against milliseconds alone, a line a method and solver."""
    figure, axes = pyplot.subplots(figsize=(8, 5.5), layout="constrained")
    for number, (name, each) in enumerate(measured.items()):
        for solver, points in ways(each["points"]):
            style = ("-", "--", ":", "-.")[[solver for solver, _ in ways(each["points"])].index(solver) % 4]
            axes.plot(
                [point["alone_ms"] for point in points],
                [point["frechet_distance"] for point in points],
                linestyle=style,
                marker=".",
                color=f"C{number}",
                label=f"{name}, {solver}",
            )
            for point in points:
                at = (point["alone_ms"], point["frechet_distance"])
                axes.annotate(str(point["steps"]), at, (3, 3), textcoords="offset points", fontsize=7)
        floor = each["floor"]["frechet_distance"]
    axes.axhline(floor, color="grey", linewidth=0.8, label="training images")
    axes.set(xscale="log", yscale="log", xlabel="ms for one image alone", ylabel="Fréchet distance to the test set")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(ticker.NullFormatter())
    axes.legend(fontsize=7)
    with pyplot.rc_context({"svg.hashsalt": PLOT}):  # the same points, the same file
        figure.savefig(folder / f"{PLOT}.svg", metadata={"Date": None})
    figure.savefig(folder / f"{PLOT}.png", dpi=120)
    pyplot.close(figure)


def ways(points: Points) -> Iterator[tuple[str, Points]]:
    """The points of each solver with its settings, in order of steps."""
    for name in dict.fromkeys(way(point) for point in points):
        yield name, sorted((point for point in points if way(point) == name), key=lambda point: point["steps"])


def way(point: dict[str, Any]) -> str:
    """The solver and its settings in a few characters."""
    return " ".join([point["solver"], *(f"{name}={value:g}" for name, value in sorted(point["settings"].items()))])


def machine() -> str:
    """The machine's processor, as Linux names it, and its cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return f"{os.cpu_count()} cores, {processor}"
