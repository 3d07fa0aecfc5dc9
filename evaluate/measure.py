"""`./run evaluate --data FOLDER`: measures served models, by requests to a running service as a user sends them."""

import io
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

from bundle import manifest
from bundle.manifest import Measured, MeasuredPoint
from evaluate import report
from evaluate.judge import Judge
from loadtests.machine import machine
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
    """Measures the missing points one after the other, and writes the report after each."""
    train, test = data.load(settings.data, "train"), data.load(settings.data, "test")
    with serving(settings.bundles) as url, httpx.Client(base_url=url, timeout=REQUEST_TIMEOUT_S) as client:
        for method in client.get("/methods").raise_for_status().json():
            if settings.methods and method["method"] not in settings.methods:
                continue
            judge = Judge(train, test, method["image_shape"][-1], settings.images, settings.judges)
            record = Record(settings.bundles, method["method"])
            record.measured.machine, record.measured.floor = machine(), judge.of_training_images
            for point in families.find(method["family"]).POINTS:
                point = with_defaults(point, method)
                if (settings.steps and point.steps not in settings.steps) or record.has(point, settings.images):
                    continue
                record.add(measure(client, method["method"], point, judge))
                report.write(settings.report, settings.bundles)
            if not settings.steps and (figures := family_figures(method, settings, test)) is not None:
                record.add_figures(figures)
            draw(client, method, report.images(settings.report))
    report.write(settings.report, settings.bundles)


def with_defaults(point: Point, method: dict[str, Any]) -> Point:
    """The point with every setting of its solver."""
    (solver,) = (solver for solver in method["solvers"] if solver["name"] == point.solver)
    defaults = {name: limits["default"] for name, limits in solver["settings"].items()}
    return point._replace(settings={**defaults, **point.settings})


class Record:
    """The measurements of one method, in its bundle's manifest; `add` and `add_figures` write the file at once."""

    def __init__(self, bundles: Path, method: str) -> None:
        bundle = manifest.load_all(bundles)[0][method]
        self.folder, self.manifest = bundle.folder, bundle.manifest

    @property
    def measured(self) -> Measured:
        return self.manifest.measured

    def has(self, point: Point, images: int) -> bool:
        """Whether the point was measured on as many images."""
        return any(is_at(old, point) and old.images == images for old in self.measured.points)

    def add(self, measured: MeasuredPoint) -> None:
        """Adds a point, in place of an older measurement of it."""
        point = Point(measured.solver, measured.steps, measured.settings)
        self.measured.points = [*(old for old in self.measured.points if not is_at(old, point)), measured]
        self.manifest.write(self.folder)

    def add_figures(self, figures: dict[str, Any]) -> None:
        """Adds the family's own figures. Raises ValidationError for one that is not a finite number."""
        self.manifest.measured = Measured.model_validate({**self.measured.model_dump(), **figures})
        self.manifest.write(self.folder)


def is_at(measured: MeasuredPoint, point: Point) -> bool:
    return (measured.solver, measured.steps, measured.settings) == point


def measure(client: httpx.Client, method: str, point: Point, judge: Judge) -> MeasuredPoint:
    """Quality and speed at one point."""
    request = {"method": method, "steps": point.steps, "solver": point.solver, **point.settings}
    start_s = time.perf_counter()
    images, labels = generate(client, request, judge.labels)
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


def generate(client: httpx.Client, request: dict[str, Any], labels: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """An image for each label from the service, and their labels, in order of class; request i has seed i."""
    classes, counts = np.unique(labels, return_counts=True)
    requests = [
        {**request, "class_label": int(label), "n": min(IMAGES_PER_REQUEST, int(count) - first)}
        for label, count in zip(classes, counts, strict=True)
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
    if find_spec(name) is None:
        return None
    for path in settings.checkpoints.glob(f"*/{checkpoint.CARD}"):
        card, network = checkpoint.load(path.parent)
        if card.name == method["method"]:
            x, y = data.to_model(test.images, card.shape[-1]), test.labels
            figures: dict[str, Any] = import_module(name).evaluate(network, torch.from_numpy(x), torch.from_numpy(y))
            return figures
    return None


def draw(client: httpx.Client, method: dict[str, Any], folder: Path) -> None:
    """Saves a grid of images of each class, from requests without steps and solver."""
    labels = np.arange(len(method["classes"])).repeat(PICTURES_PER_CLASS)
    images, _ = generate(client, {"method": method["method"]}, labels)
    folder.mkdir(parents=True, exist_ok=True)
    grid(images, columns=PICTURES_PER_CLASS).save(folder / f"{method['method']}.png")


if __name__ == "__main__":
    CliApp.run(Settings)
