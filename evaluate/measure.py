"""Measures served models: `./run evaluate --data FOLDER`. Images come through the running service, as a user's do."""

import io
import json
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveInt
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict
from torch import Tensor
from tqdm import tqdm

from evaluate import report
from evaluate.judge import Judge
from loadtests.server_process import serving
from models import checkpoint, data, families
from models.data import Dataset
from models.families import Point
from models.sample import grid

REPOSITORY = Path(__file__).parent.parent
IMAGES_PER_REQUEST = 10
CONCURRENCY = 4
LATENCY_REQUESTS = 30
PICTURES_PER_CLASS = 10
REQUEST_TIMEOUT_S = 600


class Settings(BaseSettings):
    """Measure quality and speed of every served method, at every point of its family, through a running service.

    Points that the manifest already has are not measured again.
    """

    model_config = SettingsConfigDict(
        env_prefix="TRILEMMA_EVALUATE_", cli_kebab_case=True, cli_prog_name="./run evaluate"
    )

    data: Path = Field(description="data set of the models, with training and test images")
    bundles: Path = Field(REPOSITORY / "bundles", description="folder of bundles; results go into their manifests")
    checkpoints: Path = Field(REPOSITORY / "checkpoints", description="folder of the checkpoints of the bundles")
    methods: list[str] = Field([], description="only these methods, e.g. ddim,latent")
    steps: list[PositiveInt] = Field([], description="only points with these numbers of steps, e.g. 4,10")
    images: PositiveInt = Field(5000, description="images a point, with the classes of the test set")
    judges: Path = Field(
        REPOSITORY / "checkpoints", description="folder of evaluation classifiers; a new one is saved here"
    )
    report: Path = Field(
        REPOSITORY / "docs" / "benchmarks" / "quality.md",
        description="page that gets the table; plot, pictures and CSV go beside it",
    )

    def cli_cmd(self) -> None:
        evaluate(self)


def evaluate(settings: Settings) -> None:
    """Measures what is not measured yet, a point after the other, and writes the report after each."""
    train, test = data.load(settings.data, "train"), data.load(settings.data, "test")
    with serving(settings.bundles) as url, httpx.Client(base_url=url, timeout=REQUEST_TIMEOUT_S) as client:
        for method in client.get("/methods").raise_for_status().json():
            if settings.methods and method["method"] not in settings.methods:
                continue
            judge = Judge(train, test, method["image_shape"][-1], settings.images, settings.judges)
            record = Record(settings.bundles, method["method"])
            record.measured |= {"machine": report.machine(), "floor": judge.floor}
            for point in families.find(method["family"]).POINTS:
                point = with_defaults(point, method)
                if (settings.steps and point.steps not in settings.steps) or record.has(point, settings.images):
                    continue
                record.add(point, measure(client, method["method"], point, judge))
                report.write(settings.report, settings.bundles)
            if not settings.steps and (more := of_family(method, settings, test)) is not None:
                record.measured |= more
                record.save()
            draw(client, method, report.images(settings.report))
    report.write(settings.report, settings.bundles)


def with_defaults(point: Point, method: dict[str, Any]) -> Point:
    """The point with every setting of its solver."""
    (solver,) = (solver for solver in method["solvers"] if solver["name"] == point.solver)
    defaults = {name: limits["default"] for name, limits in solver["settings"].items()}
    return point._replace(settings={**defaults, **point.settings})


class Record:
    """The `measured` of one method's manifest; what is added is in the file at once."""

    def __init__(self, bundles: Path, method: str) -> None:
        manifests = {path: json.loads(path.read_text()) for path in bundles.glob("[!.]*/manifest.json")}
        ((self.path, self.manifest),) = (each for each in manifests.items() if each[1]["name"] == method)
        self.measured: dict[str, Any] = self.manifest["measured"]

    def has(self, point: Point, images: int) -> bool:
        return any(is_at(old, point) and old["images"] == images for old in self.measured.get("points", []))

    def add(self, point: Point, results: dict[str, Any]) -> None:
        """In place of older results at the same point."""
        others = [old for old in self.measured.get("points", []) if not is_at(old, point)]
        self.measured["points"] = [*others, {**point._asdict(), **results}]
        self.save()

    def save(self) -> None:
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.manifest, indent=1) + "\n")
        partial.replace(self.path)


def is_at(measured: dict[str, Any], point: Point) -> bool:
    return all(measured[name] == value for name, value in point._asdict().items())


def measure(client: httpx.Client, method: str, point: Point, judge: Judge) -> dict[str, Any]:
    """Quality and speed at one point: as `Judge.measure` has them, and milliseconds an image, alone and saturated."""
    asked = {"method": method, "steps": point.steps, "solver": point.solver, **point.settings}
    start = time.perf_counter()
    images, labels = generate(client, asked, judge.labels)
    saturated_ms = 1000 * (time.perf_counter() - start) / len(images)
    # One request after the other, each for one image.
    answers = [client.post("/generate", json={**asked, "seed": s}).raise_for_status() for s in range(LATENCY_REQUESTS)]
    alone_ms = float(np.median([answer.json()["timing"]["total_ms"] for answer in answers]))
    return {**judge.measure(images, labels), "alone_ms": round(alone_ms, 2), "saturated_ms": round(saturated_ms, 2)}


def generate(client: httpx.Client, asked: dict[str, Any], labels: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """An image of each label through the service, and their labels, in order of class; request i has seed i."""
    classes, counts = np.unique(labels, return_counts=True)
    requests = [
        {**asked, "class_label": int(label), "n": min(IMAGES_PER_REQUEST, int(count) - done)}
        for label, count in zip(classes, counts, strict=True)
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
        card, network = checkpoint.load(path.parent)
        if card.name == method["method"]:
            x, y = data.to_model(test.images, card.shape[-1]), test.labels
            measured: dict[str, Any] = import_module(name).evaluate(network, torch.from_numpy(x), torch.from_numpy(y))
            return measured
    return None


def draw(client: httpx.Client, method: dict[str, Any], folder: Path) -> None:
    """A grid of each class as a request without steps and solver gives it."""
    labels = np.arange(len(method["classes"])).repeat(PICTURES_PER_CLASS)
    images, _ = generate(client, {"method": method["method"]}, labels)
    folder.mkdir(parents=True, exist_ok=True)
    grid(images, columns=PICTURES_PER_CLASS).save(folder / f"{method['method']}.png")


if __name__ == "__main__":
    CliApp.run(Settings)
