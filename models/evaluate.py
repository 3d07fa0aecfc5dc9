"""Measures served models: `./run evaluate --data FOLDER`. Images come through the running service, as a user's do."""

import contextlib
import io
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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

from models import data
from models.classifier import Classifier, predict, trained
from models.sample import grid

REPOSITORY = Path(__file__).parent.parent
IMAGES_PER_REQUEST = 10
CONCURRENCY = 4
LATENCY_REQUESTS = 30
IDENTITY = ("steps", "solver", "settings")  # what tells one point from another
START_TIMEOUT_S = 120
REQUEST_TIMEOUT_S = 300


class Settings(BaseSettings):
    """Start the service over a folder of bundles, ask it for images of every class, and let a classifier judge them."""

    model_config = SettingsConfigDict(
        env_prefix="TRILEMMA_EVALUATE_", cli_kebab_case=True, cli_prog_name="./run evaluate"
    )

    data: Path = Field(description="the data set that the models were trained on")
    bundles: Path = Field(REPOSITORY / "bundles", description="folder of bundles; their manifests get the results")
    steps: list[PositiveInt] = Field([20], description="one or more, as 5,10,20")
    solver: str | None = Field(None, description="as in a request; default: the model's first")
    eta: float | None = Field(None, description="as in a request")
    images_per_class: PositiveInt = Field(100, description=f"a multiple of {IMAGES_PER_REQUEST}")
    cache: Path = Field(REPOSITORY / ".cache", description="folder for the trained classifier")
    pictures: Path | None = Field(None, description="folder for a grid of ten images a class, a file a measurement")

    def cli_cmd(self) -> None:
        evaluate(self)


def evaluate(settings: Settings) -> None:
    """Measures every served method at each number of steps, prints a table, and puts the results into the manifests."""
    train, test = data.load(settings.data, "train"), data.load(settings.data, "test")
    with serving(settings.bundles) as url, httpx.Client(base_url=url, timeout=REQUEST_TIMEOUT_S) as client:
        for method in client.get("/methods").raise_for_status().json():
            size = method["image_shape"][-1]
            judge = trained(train, size, settings.cache)
            real = torch.from_numpy(data.to_model(test.images, size))
            accuracy = agreement(judge, real, torch.from_numpy(test.labels))
            print(f"\nThe classifier is right on {accuracy:.2%} of the test set.\n")
            print(f"| {method['method']} | of the class asked for | ms for one image alone |\n|---|---|---|")
            for steps in settings.steps:
                point = measure(client, method, steps, judge, settings) | {"classifier_accuracy": accuracy}
                record(settings.bundles, method["method"], point)
                how = ", ".join([point["solver"], *(f"{k}={v:g}" for k, v in point["settings"].items())])
                print(f"| {steps} steps, {how} | {point['class_agreement']:.1%} | {point['alone_ms']:.1f} |")


def measure(
    client: httpx.Client, method: dict[str, Any], steps: int, judge: Classifier, settings: Settings
) -> dict[str, Any]:
    """One point of the manifest's `measured`: the settings that it holds for, quality and speed."""
    asked = {"method": method["method"], "steps": steps, "solver": settings.solver, "eta": settings.eta}
    images, labels = generate(client, asked, len(method["classes"]), settings.images_per_class)
    # One request after the other, each for one image.
    bodies = [{**asked, "seed": seed} for seed in range(LATENCY_REQUESTS)]
    answers = [client.post("/generate", json=body).raise_for_status().json() for body in bodies]
    if settings.pictures is not None:
        settings.pictures.mkdir(parents=True, exist_ok=True)
        first = images.view(len(method["classes"]), -1, *images.shape[1:])[:, :10].flatten(0, 1)
        grid(first, columns=10).save(settings.pictures / f"{method['method']}-{steps}-steps.png")
    return {
        **{key: answers[0][key] for key in IDENTITY},
        "class_agreement": agreement(judge, images, labels),
        "images": len(images),
        "alone_ms": round(float(np.median([answer["timing"]["total_ms"] for answer in answers])), 1),
    }


def agreement(classifier: Classifier, images: Tensor, labels: Tensor) -> float:
    """The share of images that the classifier gives the class in `labels`."""
    return (predict(classifier, images) == labels).double().mean().item()


def generate(client: httpx.Client, asked: dict[str, Any], classes: int, images_per_class: int) -> tuple[Tensor, Tensor]:
    """Images of every class through the service, in order of class, and their labels; request i has seed i."""
    labels = np.repeat(np.arange(classes), images_per_class // IMAGES_PER_REQUEST)

    def ask(seed: int) -> NDArray[np.float32]:
        body = {**asked, "seed": seed, "n": IMAGES_PER_REQUEST, "class_label": int(labels[seed])}
        answer = client.post("/generate", json=body, headers={"Accept": "application/x-npy"}).raise_for_status()
        images: NDArray[np.float32] = np.load(io.BytesIO(answer.content), allow_pickle=False)
        return images

    with ThreadPoolExecutor(CONCURRENCY) as pool:
        answers = list(tqdm(pool.map(ask, range(len(labels))), total=len(labels), unit="request", leave=False))
    return torch.from_numpy(np.concatenate(answers)), torch.from_numpy(labels.repeat(IMAGES_PER_REQUEST))


def record(bundles: Path, method: str, point: dict[str, Any]) -> None:
    """Puts a point into the `measured` of the manifest of `method`, in place of an older one of the same settings."""
    for path in bundles.glob("*/manifest.json"):
        manifest = json.loads(path.read_text())
        if manifest["name"] == method:
            others = [
                old for old in manifest["measured"].get("points", []) if any(old[key] != point[key] for key in IDENTITY)
            ]
            manifest["measured"]["points"] = [*others, point]
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(manifest, indent=1) + "\n")
            partial.replace(path)


@contextlib.contextmanager
def serving(bundles: Path) -> Iterator[str]:
    """The URL of a service over `bundles`, ready; it is stopped on leaving."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "service",
        "--port",
        str(port),
        "--bundles",
        str(bundles),
        "--log-level",
        "warning",
    ]
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, cwd=REPOSITORY) as process:
        try:
            wait_until_ready(url, process)
            yield url
        finally:
            process.terminate()


def wait_until_ready(url: str, process: "subprocess.Popen[bytes]") -> None:
    """Returns when `/readyz` says so. Raises SystemExit if the service ends before it, or takes too long."""
    for _ in range(START_TIMEOUT_S * 10):
        if process.poll() is not None:
            raise SystemExit(f"the service ended with {process.returncode}")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz").is_success:
                return
        time.sleep(0.1)
    raise SystemExit(f"the service was not ready after {START_TIMEOUT_S} s")


if __name__ == "__main__":
    CliApp.run(Settings)
