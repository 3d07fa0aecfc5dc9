"""Writes the measurements: docs/benchmarks/quality.md between two marks, raw/quality.csv and the plot beside it."""

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bundle.loading import load_all
from bundle.manifest import Default, Manifest, MeasuredPoint, Quality
from evaluate import plot
from models import atomic, families
from models.failures import EvaluateError

BEGIN, END = "<!-- measured: written by ./run evaluate -->", "<!-- end of measured -->"
UNNAMED = "Unnamed data set"
EMPTY = f"# Quality\n\n{BEGIN}\n{END}\n"
POINTS = (
    "| method, solver, steps | Fréchet distance | precision | recall | class accuracy | latency, ms |\n"
    "|---|--:|--:|--:|--:|--:|"
)
BOUNDS = "| bits per dimension of the test set | prior | reconstruction | diffusion | total |\n|---|--:|--:|--:|--:|"
AUTOENCODERS = "| squared error of the autoencoder | of a test image | of a latent z from N(0, I) |\n|---|--:|--:|"
POINT_FIELDS = {"solver", "settings", "steps"}  # the other fields of a point are its measurements
SPREADS = "| standard deviation of x0 over z, from one x_t | of all pixels | of the largest pixel |\n|---|--:|--:|"


def check(path: Path) -> None:
    """Raises EvaluateError for an existing page without the marks around the measurements."""
    if path.exists() and not 0 <= path.read_text().find(BEGIN) < path.read_text().find(END):
        raise EvaluateError(f"{path}: it lacks the lines {BEGIN} and {END}: add them, or choose another --report")


def write(path: Path, bundles: Path) -> None:
    """Puts the points of all bundles between the marks of the page at `path`, and draws the plot."""
    manifests = [bundle.manifest for bundle in load_all(bundles)[0].values() if bundle.manifest.measured.points]
    if not manifests:
        return
    groups = by_dataset(manifests)
    (path.parent / "raw").mkdir(parents=True, exist_ok=True)
    text = path.read_text() if path.exists() else EMPTY
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    measured = "\n\n".join(section for name, group in groups.items() for section in sections(name, group))
    page = f"{before}{BEGIN}\n\n{measured}\n\n{after}"
    atomic.replace(path, lambda partial: partial.write_text(page))
    save(manifests, path.parent / "raw" / "quality.csv")
    images(path).mkdir(parents=True, exist_ok=True)
    for name, group in groups.items():
        plot.draw({m.name: ordered(m) for m in group}, of_training_images(group), images(path) / plot_name(name))


def by_dataset(manifests: list[Manifest]) -> dict[str, list[Manifest]]:
    """The manifests by the name of their section: one for each data set, colour and large images first.

    Distances by two judges do not compare, so a data set with several judges has a section for each.
    """
    by_judge: dict[tuple[str, str], list[Manifest]] = defaultdict(list)
    for manifest in sorted(manifests, key=lambda manifest: ([-side for side in manifest.shape], manifest.name)):
        by_judge[dataset(manifest), manifest.judge].append(manifest)
    judges = Counter(name for name, _ in by_judge)
    return {name if judges[name] == 1 else f"{name}, by {judge}": group for (name, judge), group in by_judge.items()}


def dataset(manifest: Manifest) -> str:
    return UNNAMED if manifest.dataset is None else manifest.dataset.name


def plot_name(section: str) -> str:
    """The name of a section's plot, without its suffix."""
    return f"{plot.NAME}-{re.sub(r'[^a-z0-9]+', '-', section.lower()).strip('-')}"


def images(path: Path) -> Path:
    """The folder of the page's pictures, which all pages share."""
    return path.parent.parent / "images"


def sections(name: str, manifests: list[Manifest]) -> Iterator[str]:
    """Heading, plot, the Pareto front with the defaults, all points folded away, and the families' own figures."""
    pairs = [(manifest, point) for manifest in manifests for point in ordered(manifest)]
    points = [point for _, point in pairs]
    summary = [(manifest, point) for manifest, point in pairs if is_best(point, points) or is_default(manifest, point)]
    summary.sort(key=lambda pair: pair[1].alone_ms)
    training = of_training_images(manifests)
    usual = most_common(point.images for point in points)
    last = [f"| *training images*{fewer(training, usual)} | {quality(training)} | |"] if training else []
    yield f"## {name}"
    yield measured_by(manifests, usual)
    yield f"![Fréchet distance against latency](../images/{plot_name(name)}.svg)"
    yield "\n".join([POINTS, *(row(manifest, point, usual) for manifest, point in summary), *last])
    yield "`*`: what a request without `steps` gets. The others: no point is both faster and nearer the data."
    yield f"<details><summary>All {len(points)} points</summary>"
    yield "\n".join([POINTS, *(row(manifest, point, usual) for manifest, point in pairs), *last])
    yield "</details>"
    for head, rows in ((BOUNDS, bounds), (AUTOENCODERS, autoencoders), (SPREADS, spreads)):
        if lines := [line for manifest in manifests for line in rows(manifest)]:
            yield "\n".join([head, *lines])


def most_common(images: Iterable[int | None]) -> int | None:
    """The number of images of most points; of two that are as common, the larger."""
    return max(Counter(images).items(), key=lambda item: (item[1], item[0] or 0))[0]


def measured_by(manifests: list[Manifest], usual: int | None) -> str:
    """What a table's figures are of, and which others they compare with."""
    machines = " and ".join(dict.fromkeys(manifest.measured.machine for manifest in manifests))
    text = f"Measured on {machines}, {number(usual, ',')} images a point, by the judge `{manifests[0].judge}`."
    if any(point.images != usual for manifest in manifests for point in manifest.measured.points):
        text += " A row of another number of images says so: fewer give a larger distance."
    return text


def fewer(measured: Quality, usual: int | None) -> str:
    """The number of images, where it is not the usual one."""
    return "" if measured.images == usual else f" ({number(measured.images, ',')} images)"


def ordered(manifest: Manifest) -> list[MeasuredPoint]:
    """The measured points by solver and steps."""
    return sorted(manifest.measured.points, key=lambda point: (plot.solver(point), point.steps))


def of_training_images(manifests: list[Manifest]) -> Quality | None:
    """The quality measured of training images in place of generated ones."""
    return next((manifest.measured.floor for manifest in manifests if manifest.measured.floor), None)


def is_best(point: MeasuredPoint, points: Iterable[MeasuredPoint]) -> bool:
    """Whether the point is on the Pareto front of latency and Fréchet distance."""
    return not any(
        other.alone_ms <= point.alone_ms and other.frechet_distance <= point.frechet_distance and other != point
        for other in points
    )


def is_default(manifest: Manifest, point: MeasuredPoint) -> bool:
    """Whether a request without steps and solver gets the point."""
    solvers = families.solvers(manifest.family, manifest.noise_schedule)
    default = manifest.default or Default(solver=next(iter(solvers)), steps=manifest.recommended_steps)
    settings = dict(solvers[default.solver].defaults)
    return (point.solver, point.settings, point.steps) == (default.solver, settings, default.steps)


def row(manifest: Manifest, point: MeasuredPoint, usual: int | None) -> str:
    """A row of the table POINTS."""
    mark = " `*`" if is_default(manifest, point) else ""
    name = f"{manifest.name}, {plot.solver(point)}, {point.steps}{fewer(point, usual)}{mark}"
    return f"| {name} | {quality(point)} | {point.alone_ms:.1f} |"


def quality(point: Quality) -> str:
    """The cells of a row that are about quality."""
    shares = (
        f"{number(point.precision, '.3f')} | {number(point.recall, '.3f')} | {number(point.class_agreement, '.1%')}"
    )
    return f"{point.frechet_distance:.2f} | {shares}"


def number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def extra(manifest: Manifest, name: str) -> dict[str, Any]:
    """A family's own figures under `name`; empty if it has none."""
    figures: dict[str, Any] = (manifest.measured.model_extra or {}).get(name, {})
    return figures


def bounds(manifest: Manifest) -> Iterator[str]:
    """Rows of the table BOUNDS."""
    for timesteps, terms in extra(manifest, "bits_per_dimension").items():
        yield f"| {manifest.name}, {timesteps} | " + " | ".join(f"{term:.4f}" for term in terms.values()) + " |"


def autoencoders(manifest: Manifest) -> Iterator[str]:
    """Rows of the table AUTOENCODERS."""
    if errors := extra(manifest, "autoencoder"):
        yield f"| {manifest.name} | {errors['reconstruction']:.4f} | {errors['consistency']:.4f} |"


def spreads(manifest: Manifest) -> Iterator[str]:
    """Rows of the table SPREADS."""
    for timestep, spread in extra(manifest, "spread").items():
        yield f"| {manifest.name}, {timestep} | {spread['pixels']:.3f} | {spread['largest']:.3f} |"


def save(manifests: list[Manifest], path: Path) -> None:
    """Every number of every point, as CSV."""
    rows = [
        {
            "dataset": dataset(m),
            "method": m.name,
            "solver": plot.solver(point),
            "steps": point.steps,
            **point.model_dump(exclude=POINT_FIELDS),
            "judge": m.judge,
        }
        for m in manifests
        for point in ordered(m)
    ]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
