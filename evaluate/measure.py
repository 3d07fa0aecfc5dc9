"""Measures served models by requests to a running service, as a user sends them: see `evaluate.options`."""

import contextlib
import io
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from bundle.loading import Bundle, load_all
from bundle.manifest import Default, Measured, MeasuredPoint
from evaluate import report
from evaluate.judge import Judge
from evaluate.options import Settings
from loadtests.machine import machine
from loadtests.server_process import serving
from models import checkpoint, data, families
from models.data import Dataset
from models.failures import CheckpointError, EvaluateError
from models.families import Point
from models.sample import grid

IMAGES_PER_REQUEST = 10
CONCURRENCY = 4
LATENCY_REQUESTS = 30
PICTURES_PER_CLASS = 10
REQUEST_TIMEOUT_S = 600


def evaluate(settings: Settings) -> None:
    """Measures the missing points one after the other, and writes the report after each.

    Raises EvaluateError before the first if no method fits the data, or the report has no marks for its table.
    """
    report.check(settings.report)
    train, test = data.load_both(settings.data)
    print(f"{settings.data}: {train}", flush=True)
    with serving(settings.bundles) as url, httpx.Client(base_url=url, timeout=REQUEST_TIMEOUT_S) as client:
        methods = client.get("/methods").raise_for_status().json()
        for method, record in choose(methods, settings, train):
            judge = Judge(train, test, method["image_shape"][-1], settings.images, settings.judges)
            record.begin(judge)
            for point in points(method):
                if (settings.steps and point.steps not in settings.steps) or record.has(point, settings.images):
                    continue
                record.add(measure(client, method["method"], point, judge, train.classes))
                report.write(settings.report, settings.bundles)
            record.choose_default()
            if not settings.steps and (figures := family_figures(method, settings, test)) is not None:
                record.add_figures(figures)
            draw(client, method, report.images(settings.report))
    report.write(settings.report, settings.bundles)


def choose(methods: list[dict[str, Any]], settings: Settings, train: Dataset) -> list[tuple[dict[str, Any], "Record"]]:
    """The methods to measure: the named ones, or all that were trained on these data. Prints those that it leaves out.

    Raises EvaluateError if a named method does not fit the data, or if there is no method to measure.
    """
    if unknown := set(settings.methods) - {method["method"] for method in methods}:
        raise EvaluateError(f"--methods {', '.join(sorted(unknown))}: not in {settings.bundles}")
    bundles, _ = load_all(settings.bundles)
    chosen = []
    for method in methods:
        name = method["method"]
        record = Record(bundles[name])
        problem = misfit(method, train)
        if settings.methods and name not in settings.methods:
            continue
        if settings.methods and problem:
            raise EvaluateError(f"--methods {name}: {problem}")
        if not settings.methods and record.data_digest not in (None, train.digest):
            problem = problem or "it was trained on other data; --methods measures it all the same"
        if problem:
            print(f"{name}: left out, as {problem}", flush=True)
        else:
            chosen.append((method, record))
    if not chosen:
        raise EvaluateError(f"no method in {settings.bundles} is of the data in {settings.data}")
    return chosen


def misfit(method: dict[str, Any], train: Dataset) -> str | None:
    """Why the method's images cannot be compared with the data set's; None if they can."""
    channels, *sides = method["image_shape"]
    _, of_data, height, width = train.images.shape
    if channels != of_data:
        return f"its images have {channels} channels, and those of the data {of_data}"
    if max(height, width) > min(sides):
        return f"its images are {sides[0]}×{sides[1]}, and those of the data {height}×{width}"
    if missing := [name for name in train.classes if name not in method["classes"]]:
        return f"it has no class {missing[0]!r}"
    return None


def points(method: dict[str, Any]) -> list[Point]:
    """The family's points by solvers that the method has, each with every setting of its solver; and fitted plans."""
    defaults = {
        solver["name"]: {name: limits["default"] for name, limits in solver["settings"].items()}
        for solver in method["solvers"]
    }
    fitted = [Point(solver["name"], steps) for solver in method["solvers"] for steps in solver["steps"]]
    return [
        point._replace(settings={**defaults[point.solver], **point.settings})
        for point in (*families.find(method["family"]).POINTS, *fitted)
        if point.solver in defaults
    ]


class Record:
    """The measurements of one method, in its bundle's manifest; `add` and `add_figures` write the file at once."""

    def __init__(self, bundle: Bundle) -> None:
        self.folder, self.manifest = bundle.folder, bundle.manifest

    @property
    def measured(self) -> Measured:
        return self.manifest.measured

    @property
    def data_digest(self) -> str | None:
        """The digest of the data that the model was trained on; None if it is not recorded."""
        digest: str | None = self.manifest.checkpoint.get("training", {}).get("data_digest")
        return digest

    def begin(self, judge: Judge) -> None:
        """Notes who measures, and where. Points by another judge are dropped, as they compare with none of these."""
        measured, floor = self.measured, judge.of_training_images
        if self.manifest.judge != judge.name:
            measured.points, measured.floor = [], None
        if measured.floor is None or (measured.floor.images or 0) <= (floor.images or 0):
            measured.floor = floor
        measured.machine, measured.judge = machine(), judge.name

    def has(self, point: Point, images: int) -> bool:
        """Whether the point was measured on so many images, or more."""
        return any(is_at(old, point) and (old.images or 0) >= images for old in self.measured.points)

    def add(self, measured: MeasuredPoint) -> None:
        """Adds a point, in place of an older measurement of it."""
        point = Point(measured.solver, measured.steps, measured.settings)
        self.measured.points = [*(old for old in self.measured.points if not is_at(old, point)), measured]
        self.manifest.write(self.folder)

    def choose_default(self) -> None:
        """Makes a fitted plan the default where one is nearer to the data than the first solver, in no more steps."""
        solvers = families.solvers(self.manifest.family, self.manifest.noise_schedule)
        steps = self.manifest.recommended_steps
        name, first = next(iter(solvers.items()))
        self.manifest.default = None
        if usual := next((p for p in self.measured.points if is_at(p, Point(name, steps, dict(first.defaults)))), None):
            fitted = [p for p in self.measured.points if solvers[p.solver].steps and p.steps <= steps]
            best = min([usual, *fitted], key=lambda point: point.frechet_distance)
            if best is not usual:
                self.manifest.default = Default(solver=best.solver, steps=best.steps)
        self.manifest.write(self.folder)

    def add_figures(self, figures: dict[str, Any]) -> None:
        """Adds the family's own figures. Raises ValidationError for one that is not a finite number."""
        self.manifest.measured = Measured.model_validate({**self.measured.model_dump(), **figures})
        self.manifest.write(self.folder)


def is_at(measured: MeasuredPoint, point: Point) -> bool:
    """Whether the measurement is of this point."""
    return (measured.solver, measured.steps, measured.settings) == point


def measure(client: httpx.Client, method: str, point: Point, judge: Judge, classes: Sequence[str]) -> MeasuredPoint:
    """Quality and speed at one point."""
    request = {"method": method, "steps": point.steps, "solver": point.solver, **point.settings}
    start_s = time.perf_counter()
    images, labels = generate(client, request, judge.labels, classes)
    saturated_ms = 1000 * (time.perf_counter() - start_s) / len(images)
    # One request after the other, each for one image.
    answers = [client.post("/generate", json={**request, "seed": seed}) for seed in range(LATENCY_REQUESTS)]
    alone_ms = float(np.median([answer.raise_for_status().json()["timing"]["total_ms"] for answer in answers]))
    return MeasuredPoint(
        solver=point.solver,
        steps=point.steps,
        settings=dict(point.settings),
        alone_ms=round(alone_ms, 2),
        saturated_ms=round(saturated_ms, 2),
        **judge.measure(images, labels).model_dump(),
    )


def generate(
    client: httpx.Client, request: dict[str, Any], labels: NDArray[np.int64], classes: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """An image for each label from the service, and their labels, in order of label; request i has seed i.

    Requests name the classes, as the model may have them in another order.
    """
    distinct, counts = np.unique(labels, return_counts=True)
    requests = [
        {**request, "class_label": classes[label], "n": min(IMAGES_PER_REQUEST, int(count) - first)}
        for label, count in zip(distinct, counts, strict=True)
        for first in range(0, count, IMAGES_PER_REQUEST)
    ]

    def ask(seed: int) -> NDArray[np.float32]:
        body, headers = {**requests[seed], "seed": seed}, {"Accept": "application/x-npy"}
        answer = client.post("/generate", json=body, headers=headers).raise_for_status()
        images: NDArray[np.float32] = np.load(io.BytesIO(answer.content), allow_pickle=False)
        return images

    with ThreadPoolExecutor(CONCURRENCY) as pool:
        answers = list(tqdm(pool.map(ask, range(len(requests))), total=len(requests), unit="request", leave=False))
    return torch.from_numpy(np.concatenate(answers)), torch.from_numpy(np.sort(labels))


def family_figures(method: dict[str, Any], settings: Settings, test: Dataset) -> dict[str, Any] | None:
    """What `models/FAMILY/measures.py` measures of the model's checkpoint on the test set; None without such a file."""
    name = f"models.{method['family']}.measures"
    found = trained(method["method"], settings.checkpoints) if find_spec(name) else None
    if found is None:
        return None
    card, network = found
    x, y = data.to_model(test.images, card.shape[-1]), test.labels
    figures: dict[str, Any] = import_module(name).evaluate(network, torch.from_numpy(x), torch.from_numpy(y))
    return figures


def trained(method: str, checkpoints: Path) -> tuple[checkpoint.Card, Any] | None:
    """The checkpoint of a method, in this folder of them; None if it is not there."""
    for path in checkpoints.glob(f"*/{checkpoint.CARD}"):
        with contextlib.suppress(CheckpointError):  # of another model
            if checkpoint.read_card(path.parent).name == method:
                return checkpoint.load(path.parent)
    return None


def draw(client: httpx.Client, method: dict[str, Any], folder: Path) -> None:
    """Saves a grid of images of each class, from requests without steps and solver."""
    labels = np.arange(len(method["classes"])).repeat(PICTURES_PER_CLASS)
    images, _ = generate(client, {"method": method["method"]}, labels, method["classes"])
    folder.mkdir(parents=True, exist_ok=True)
    grid(images, columns=PICTURES_PER_CLASS).save(folder / f"{method['method']}.png")
