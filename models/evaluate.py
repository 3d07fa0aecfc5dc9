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
START_TIMEOUT_S = 120
REQUEST_TIMEOUT_S = 300


class Settings(BaseSettings):
    """Start the service over a folder of bundles, ask it for images of every class, and let a classifier judge them."""

    model_config = SettingsConfigDict(
        env_prefix="TRILEMMA_EVALUATE_", cli_kebab_case=True, cli_prog_name="./run evaluate"
    )

    data: Path = Field(description="the data set that the models were trained on")
    bundles: Path = Field(REPOSITORY / "bundles", description="folder of bundles; their manifests get the results")
    images_per_class: PositiveInt = Field(100, description=f"a multiple of {IMAGES_PER_REQUEST}")
    steps: PositiveInt = 20
    cache: Path = Field(REPOSITORY / ".cache", description="folder for the trained classifier")
    pictures: Path = Field(REPOSITORY / "docs" / "images", description="folder for a grid of each method's images")

    def cli_cmd(self) -> None:
        evaluate(self)


def evaluate(settings: Settings) -> None:
    train, test = data.load(settings.data, "train"), data.load(settings.data, "test")
    with serving(settings.bundles) as url, httpx.Client(base_url=url, timeout=REQUEST_TIMEOUT_S) as client:
        for method in client.get("/methods").raise_for_status().json():
            size = method["image_shape"][-1]
            classifier = trained(train, size, settings.cache)
            accuracy = agreement(
                classifier, torch.from_numpy(data.to_model(test.images, size)), torch.from_numpy(test.labels)
            )
            images, labels = generate(client, method, settings)
            agreed = agreement(classifier, images, labels)
            name = method["method"]
            print(f"{name}: {agreed:.2%} of {len(images)} images at {settings.steps} steps are of the class asked for")
            print(f"  (the classifier is right on {accuracy:.2%} of the test set)")
            alone_ms = latency_ms(client, name, settings.steps)
            print(f"  {alone_ms:.1f} ms for one image alone (median of {LATENCY_REQUESTS})")
            result = {
                "class_agreement": agreed,
                "images": len(images),
                "classifier_accuracy": accuracy,
                "alone_ms": round(alone_ms, 1),
            }
            record(settings, name, result)
            settings.pictures.mkdir(parents=True, exist_ok=True)
            first = images.view(len(method["classes"]), -1, *images.shape[1:])[:, :10].flatten(0, 1)
            grid(first, columns=10).save(settings.pictures / f"{name}-{settings.steps}-steps.png")


def agreement(classifier: Classifier, images: Tensor, labels: Tensor) -> float:
    """The share of images that the classifier gives the class in `labels`."""
    return (predict(classifier, images) == labels).double().mean().item()


def generate(client: httpx.Client, method: dict[str, Any], settings: Settings) -> tuple[Tensor, Tensor]:
    """Images of every class through the service, in order of class, and their labels; request i has seed i."""
    requests = settings.images_per_class // IMAGES_PER_REQUEST
    labels = np.repeat(np.arange(len(method["classes"])), requests)

    def ask(seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        body = {
            "method": method["method"],
            "steps": settings.steps,
            "seed": seed,
            "n": IMAGES_PER_REQUEST,
            "class_label": int(labels[seed]),
        }
        answer = client.post("/generate", json=body, headers={"Accept": "application/x-npy"}).raise_for_status()
        images: np.ndarray[Any, np.dtype[np.float32]] = np.load(io.BytesIO(answer.content), allow_pickle=False)
        return images

    with ThreadPoolExecutor(CONCURRENCY) as pool:
        answers = list(
            tqdm(pool.map(ask, range(len(labels))), total=len(labels), desc=method["method"], unit="request")
        )
    return torch.from_numpy(np.concatenate(answers)), torch.from_numpy(labels.repeat(IMAGES_PER_REQUEST))


def latency_ms(client: httpx.Client, method: str, steps: int) -> float:
    """The median of `timing.total_ms` over requests for one image, one after the other."""
    bodies = [{"method": method, "steps": steps, "seed": seed} for seed in range(LATENCY_REQUESTS)]
    answers = [client.post("/generate", json=body).raise_for_status().json() for body in bodies]
    return float(np.median([answer["timing"]["total_ms"] for answer in answers]))


def record(settings: Settings, method: str, result: dict[str, Any]) -> None:
    """Puts a result into the `measured` of the manifest of `method`, under its number of steps."""
    for path in settings.bundles.glob("*/manifest.json"):
        manifest = json.loads(path.read_text())
        if manifest["name"] == method:
            manifest["measured"].setdefault("by_steps", {})[str(settings.steps)] = result
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
