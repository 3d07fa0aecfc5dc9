"""Writes what was measured: docs/benchmarks/quality.md between two marks, raw/quality.csv and the plot beside it."""

import csv
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bundle.loading import load_all
from bundle.manifest import Manifest, MeasuredPoint, Quality
from evaluate import plot
from models import atomic, families
from models.failures import EvaluateError

BEGIN, END = "<!-- measured: written by ./run evaluate -->", "<!-- end of measured -->"
EMPTY = f"# Quality\n\n{BEGIN}\n{END}\n"
POINTS = (
    "| method, solver, steps | Fréchet distance | precision | recall | class accuracy | latency, ms |\n"
    "|---|--:|--:|--:|--:|--:|"
)
BOUNDS = "| bits per dimension of the test set | prior | reconstruction | diffusion | total |\n|---|--:|--:|--:|--:|"
AUTOENCODERS = "| squared error of the autoencoder | of a test image | of a latent z from N(0, I) |\n|---|--:|--:|"
NAMED = {"solver", "settings", "steps"}  # what makes a point, before what was measured of it
SPREADS = "| standard deviation of x0 over z, from one x_t | of all pixels | of the largest pixel |\n|---|--:|--:|"


def check(path: Path) -> None:
    """Raises EvaluateError for a page that is there and has no place for what is measured."""
    if path.exists() and not 0 <= path.read_text().find(BEGIN) < path.read_text().find(END):
        raise EvaluateError(f"{path}: it lacks the lines {BEGIN} and {END}: add them, or choose another --report")


def write(path: Path, bundles: Path) -> None:
    """Puts the points of all bundles into the page at `path`; what stands around the marks is kept."""
    manifests = [bundle.manifest for bundle in load_all(bundles)[0].values() if bundle.manifest.measured.points]
    if not manifests:
        return
    groups = by_judge(manifests)
    (path.parent / "raw").mkdir(parents=True, exist_ok=True)
    text = path.read_text() if path.exists() else EMPTY
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    measured = "\n\n".join(section for name, group in groups.items() for section in sections(name, group, len(groups)))
    page = f"{before}{BEGIN}\n\n{measured}\n\n{after}"
    atomic.replace(path, lambda partial: partial.write_text(page))
    save(manifests, path.parent / "raw" / "quality.csv")
    images(path).mkdir(parents=True, exist_ok=True)
    for name, group in groups.items():
        plot.draw({m.name: ordered(m) for m in group}, floor(group), images(path) / name)


def by_judge(manifests: list[Manifest]) -> dict[str, list[Manifest]]:
    """The manifests of each judge, whose distances compare, by the name of their plot; the smallest images first."""
    groups: dict[str, list[Manifest]] = {}
    for manifest in sorted(manifests, key=lambda manifest: (manifest.shape, judge(manifest), manifest.name)):
        groups.setdefault(judge(manifest), []).append(manifest)
    first, *_ = groups
    return {plot.NAME if name == first else f"{plot.NAME}-{name}": group for name, group in groups.items()}


def judge(manifest: Manifest) -> str:
    """The classifier that the distances are by; where that is not recorded, that of the model's training data."""
    digest = manifest.checkpoint.get("training", {}).get("data_digest", "")
    return manifest.measured.judge or f"{digest[:16]}-{manifest.shape[-1]}"


def images(path: Path) -> Path:
    """The folder of the page's pictures: the pages share it."""
    return path.parent.parent / "images"


def sections(plot_name: str, manifests: list[Manifest], groups: int) -> Iterator[str]:
    """The plot, the points that matter, all points folded away, and what families measure besides.

    A heading tells several groups apart.
    """
    if groups > 1:
        channels, height, width = manifests[0].shape
        classes = ", ".join(manifests[0].classes[:3]) + (", …" if len(manifests[0].classes) > 3 else "")
        yield f"## {'Grey' if channels == 1 else 'Colour'}, {height}×{width}: {classes}"
    every = [(manifest, point) for manifest in manifests for point in ordered(manifest)]
    best = [each for each in every if is_best(each[1], [point for _, point in every]) or is_default(*each)]
    real = floor(manifests)
    last = [f"| *training images* | {quality(real)} | |"] if real else []
    yield f"Measured on {manifests[0].measured.machine}, {number(every[0][1].images, ',')} images a point."
    yield f"![Fréchet distance against latency](../images/{plot_name}.svg)"
    yield "\n".join([POINTS, *(row(*each) for each in sorted(best, key=lambda each: each[1].alone_ms)), *last])
    yield "`*`: what a request without `steps` gets. The others: no point is both faster and nearer the data."
    yield f"<details><summary>All {len(every)} points</summary>"
    yield "\n".join([POINTS, *(row(*each) for each in every), *last])
    yield "</details>"
    for head, rows in ((BOUNDS, bounds), (AUTOENCODERS, autoencoders), (SPREADS, spreads)):
        if lines := [line for manifest in manifests for line in rows(manifest)]:
            yield "\n".join([head, *lines])


def ordered(manifest: Manifest) -> list[MeasuredPoint]:
    return sorted(manifest.measured.points, key=lambda point: (plot.solver(point), point.steps))


def floor(manifests: list[Manifest]) -> Quality | None:
    """The measures of training images in place of generated ones."""
    return next((manifest.measured.floor for manifest in manifests if manifest.measured.floor), None)


def is_best(point: MeasuredPoint, points: Iterable[MeasuredPoint]) -> bool:
    """Whether the point is on the Pareto front of latency and Fréchet distance."""
    return not any(
        other.alone_ms <= point.alone_ms and other.frechet_distance <= point.frechet_distance and other != point
        for other in points
    )


def is_default(manifest: Manifest, point: MeasuredPoint) -> bool:
    name, solver = next(iter(families.find(manifest.family).SOLVERS.items()))
    settings = {key: setting.default for key, setting in solver.settings.items()}
    return (point.solver, point.settings, point.steps) == (name, settings, manifest.recommended_steps)


def row(manifest: Manifest, point: MeasuredPoint) -> str:
    mark = " `*`" if is_default(manifest, point) else ""
    name = f"{manifest.name}, {plot.solver(point)}, {point.steps}{mark}"
    return f"| {name} | {quality(point)} | {point.alone_ms:.1f} |"


def quality(point: Quality) -> str:
    shares = (
        f"{number(point.precision, '.3f')} | {number(point.recall, '.3f')} | {number(point.class_agreement, '.1%')}"
    )
    return f"{point.frechet_distance:.2f} | {shares}"


def number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def extra(manifest: Manifest, name: str) -> dict[str, Any]:
    """What a family measures besides; empty if it does not."""
    found: dict[str, Any] = (manifest.measured.model_extra or {}).get(name, {})
    return found


def bounds(manifest: Manifest) -> Iterator[str]:
    for timesteps, terms in extra(manifest, "bits_per_dimension").items():
        yield f"| {manifest.name}, {timesteps} | " + " | ".join(f"{term:.4f}" for term in terms.values()) + " |"


def autoencoders(manifest: Manifest) -> Iterator[str]:
    if errors := extra(manifest, "autoencoder"):
        yield f"| {manifest.name} | {errors['reconstruction']:.4f} | {errors['consistency']:.4f} |"


def spreads(manifest: Manifest) -> Iterator[str]:
    for timestep, spread in extra(manifest, "spread").items():
        yield f"| {manifest.name}, {timestep} | {spread['pixels']:.3f} | {spread['largest']:.3f} |"


def save(manifests: list[Manifest], path: Path) -> None:
    """Every number of every point, as CSV."""
    rows = [
        {
            "method": m.name,
            "solver": plot.solver(point),
            "steps": point.steps,
            **point.model_dump(exclude=NAMED),
            "judge": judge(m),
        }
        for m in manifests
        for point in ordered(m)
    ]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def machine() -> str:
    """The machine's processor, as Linux names it, and its cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return f"{os.cpu_count()} cores, {processor}"
