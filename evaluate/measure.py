"""Measures served models: `./run evaluate --data FOLDER`. Images come through the running service, as a user's do."""

import contextlib
import io
import json
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

from bundle.loading import load_all
from bundle.manifest import MANIFEST
from evaluate import report
from evaluate.judge import Judge
from evaluate.options import Settings
from loadtests.server_process import serving
from models import atomic, checkpoint, data, families
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
    """Measures what is not measured yet, a point after the other, and writes the report after each.

    Raises EvaluateError before the first if no method is of the data, or the report has no place for a table.
    """
    report.check(settings.report)
    train, test = data.load_both(settings.data)
    print(f"{settings.data}: {train}", flush=True)
    with serving(settings.bundles) as url, httpx.Client(base_url=url, timeout=REQUEST_TIMEOUT_S) as client:
        methods = client.get("/methods").raise_for_status().json()
        for method, record in choose(methods, settings, train):
            judge = Judge(train, test, method["image_shape"][-1], settings.images, settings.judges)
            record.measured |= {"machine": report.machine(), "judge": judge.name, "floor": judge.floor}
            for point in families.find(method["family"]).POINTS:
                point = with_defaults(point, method)
                if (settings.steps and point.steps not in settings.steps) or record.has(point, settings.images):
                    continue
                record.add(point, measure(client, method["method"], point, judge, train.classes))
                report.write(settings.report, settings.bundles)
            if not settings.steps and (more := of_family(method, settings, test)) is not None:
                record.measured |= more
                record.save()
            draw(client, method, report.images(settings.report))
    report.write(settings.report, settings.bundles)


def choose(methods: list[dict[str, Any]], settings: Settings, train: Dataset) -> list[tuple[dict[str, Any], "Record"]]:
    """The methods to measure: those that are named, else all that were trained on these data; says what is left out.

    Raises EvaluateError if one that is named does not fit, and if there is none.
    """
    if unknown := set(settings.methods) - {method["method"] for method in methods}:
        raise EvaluateError(f"--methods {', '.join(sorted(unknown))}: not in {settings.bundles}")
    bundles, _ = load_all(settings.bundles)
    chosen = []
    for method in methods:
        name = method["method"]
        record = Record(bundles[name].folder)
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


def with_defaults(point: Point, method: dict[str, Any]) -> Point:
    """The point with every setting of its solver."""
    (solver,) = (solver for solver in method["solvers"] if solver["name"] == point.solver)
    defaults = {name: limits["default"] for name, limits in solver["settings"].items()}
    return point._replace(settings={**defaults, **point.settings})


class Record:
    """The `measured` of one method's manifest; what is added is in the file at once."""

    def __init__(self, bundle: Path) -> None:
        self.path = bundle / MANIFEST
        self.manifest: dict[str, Any] = json.loads(self.path.read_bytes())
        self.measured: dict[str, Any] = self.manifest.setdefault("measured", {})

    @property
    def data_digest(self) -> str | None:
        """Of the data that the model was trained on; None if that is not recorded."""
        digest: str | None = self.manifest["checkpoint"].get("training", {}).get("data_digest")
        return digest

    def has(self, point: Point, images: int) -> bool:
        return any(is_at(old, point) and old["images"] == images for old in self.measured.get("points", []))

    def add(self, point: Point, results: dict[str, Any]) -> None:
        """In place of older results at the same point."""
        others = [old for old in self.measured.get("points", []) if not is_at(old, point)]
        self.measured["points"] = [*others, {**point._asdict(), **results}]
        self.save()

    def save(self) -> None:
        text = json.dumps(self.manifest, indent=1) + "\n"
        atomic.replace(self.path, lambda partial: partial.write_text(text))


def is_at(measured: dict[str, Any], point: Point) -> bool:
    return all(measured[name] == value for name, value in point._asdict().items())


def measure(client: httpx.Client, method: str, point: Point, judge: Judge, classes: Sequence[str]) -> dict[str, Any]:
    """Quality and speed at one point: as `Judge.measure` has them, and milliseconds an image, alone and saturated."""
    asked = {"method": method, "steps": point.steps, "solver": point.solver, **point.settings}
    start = time.perf_counter()
    images, labels = generate(client, asked, judge.labels, classes)
    saturated_ms = 1000 * (time.perf_counter() - start) / len(images)
    # One request after the other, each for one image.
    answers = [client.post("/generate", json={**asked, "seed": s}).raise_for_status() for s in range(LATENCY_REQUESTS)]
    alone_ms = float(np.median([answer.json()["timing"]["total_ms"] for answer in answers]))
    return {**judge.measure(images, labels), "alone_ms": round(alone_ms, 2), "saturated_ms": round(saturated_ms, 2)}


def generate(
    client: httpx.Client, asked: dict[str, Any], labels: NDArray[np.int64], classes: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """An image of each label through the service, and their labels, in order of label; request i has seed i.

    A class is asked for by its name: the model may have them in another order.
    """
    each, counts = np.unique(labels, return_counts=True)
    requests = [
        {**asked, "class_label": classes[label], "n": min(IMAGES_PER_REQUEST, int(count) - done)}
        for label, count in zip(each, counts, strict=True)
        for done in range(0, count, IMAGES_PER_REQUEST)
    ]

    def ask(seed: int) -> NDArray[np.float32]:
        body, headers = {**requests[seed], "seed": seed}, {"Accept": "application/x-npy"}
        answer = client.post("/generate", json=body, headers=headers).raise_for_status()
        images: NDArray[np.float32] = np.load(io.BytesIO(answer.content), allow_pickle=False)
        return images

    with ThreadPoolExecutor(CONCURRENCY) as pool:
        answers = list(tqdm(pool.map(ask, range(len(requests))), total=len(requests), unit="request", leave=False))
    return torch.from_numpy(np.concatenate(answers)), torch.from_numpy(np.sort(labels))


def of_family(method: dict[str, Any], settings: Settings, test: Dataset) -> dict[str, Any] | None:
    """What `models/FAMILY/measures.py`, if there is one, measures of the model's checkpoint on the test set."""
    name = f"models.{method['family']}.measures"
    if find_spec(name) is None:
        return None
    for path in settings.checkpoints.glob(f"*/{checkpoint.CARD}"):
        with contextlib.suppress(CheckpointError):  # of another model
            if checkpoint.read_card(path.parent).name != method["method"]:
                continue
            card, network = checkpoint.load(path.parent)
            x, y = data.to_model(test.images, card.shape[-1]), test.labels
            measured: dict[str, Any] = import_module(name).evaluate(network, torch.from_numpy(x), torch.from_numpy(y))
            return measured
    return None


def draw(client: httpx.Client, method: dict[str, Any], folder: Path) -> None:
    """A grid of each class as a request without steps and solver gives it."""
    labels = np.arange(len(method["classes"])).repeat(PICTURES_PER_CLASS)
    images, _ = generate(client, {"method": method["method"]}, labels, method["classes"])
    folder.mkdir(parents=True, exist_ok=True)
    grid(images, columns=PICTURES_PER_CLASS).save(folder / f"{method['method']}.png")
