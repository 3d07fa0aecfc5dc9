"""`python -m evaluate.detection --data FOLDER --other FOLDER`: likelihoods of a model's test images and of others.

Through a running service, as a user asks for them: whether they tell foreign images from the model's own, whether they
agree with the trainer's own bound, and how fast they are. It prints a table.
"""

import io
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveInt
from pydantic_settings import BaseSettings, SettingsConfigDict

from evaluate.measure import CONCURRENCY, REQUEST_TIMEOUT_S, trained
from evaluate.options import REPOSITORY
from loadtests.machine import machine
from loadtests.server_process import serving
from models import command_line, data
from models.vdm import measures
from models.vdm.network import Network

IMAGES_PER_REQUEST = 50
HEAD = "| images | bits per dimension | standard error | ROC area | images/s |\n|---|--:|--:|--:|--:|"


class Settings(BaseSettings):
    """Measure likelihoods of test images, of another data set's, and of test images with shuffled pixels."""

    model_config = SettingsConfigDict(
        env_prefix="TRILEMMA_DETECTION_", cli_kebab_case=True, cli_prog_name="python -m evaluate.detection"
    )

    data: Path = Field(description="data set of the model")
    other: Path = Field(description="another data set, of images as large")
    method: str = Field("vdm", description="a method that has a likelihood")
    bundles: Path = Field(REPOSITORY / "bundles", description="folder of bundles")
    checkpoints: Path = Field(REPOSITORY / "checkpoints", description="folder of checkpoints, for the trainer's bound")
    images: PositiveInt = Field(1000, description="images of each kind")
    terms: PositiveInt = Field(16, description="network evaluations an image")

    def cli_cmd(self) -> None:
        detect(self)


class Measured(NamedTuple):
    bits: NDArray[np.float64]  # by image
    seconds: float  # of all


def detect(settings: Settings) -> None:
    """Prints the table."""
    own, other = (data.load(path, "test") for path in (settings.data, settings.other))
    places = evenly(len(own.images), settings.images)
    images, labels = own.images[places], own.labels[places]
    kinds = {
        "test images": images,
        "of the other data set": other.images[evenly(len(other.images), settings.images)],
        "test images, pixels shuffled": shuffled(images),
    }
    with (
        serving(settings.bundles, "--max-backlog-s", "3600") as url,
        httpx.Client(base_url=url, timeout=REQUEST_TIMEOUT_S) as client,
    ):
        with_class = score(client, settings, images, [own.classes[label] for label in labels])
        without = {kind: score(client, settings, each) for kind, each in kinds.items()}
    print(f"{settings.method}, {settings.terms} terms, {len(images)} images of a kind, {machine()}\n\n{HEAD}")
    print(row("test images, with their classes", with_class.bits, None, with_class.seconds))
    if (totals := trainers(settings, images, labels)) is not None:
        print(row("the same, by the trainer's code, one term", totals, None, None))
    for kind, measured in without.items():
        print(row(kind, measured.bits, without["test images"].bits, measured.seconds))


def evenly(count: int, most: int) -> NDArray[np.int64]:
    """At most so many places of `count`, evenly spaced: the first images of MNIST's test set are easier."""
    chosen = min(count, most)
    return np.arange(chosen) * count // chosen


def shuffled(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Each image (C, H, W) with its pixels in an order of its own."""
    pixels = images.reshape(*images.shape[:2], -1)
    orders = np.random.default_rng(0).permuted(np.tile(np.arange(pixels.shape[-1]), (len(images), 1)), axis=1)
    return np.take_along_axis(pixels, orders[:, None], axis=2).reshape(images.shape)


def score(
    client: httpx.Client, settings: Settings, images: NDArray[np.uint8], classes: list[str] | None = None
) -> Measured:
    """Bits per dimension of each image, from the service; `classes` are one for each image."""

    def ask(first: int) -> list[float]:
        content = npy(images[first : first + IMAGES_PER_REQUEST])
        query: dict[str, str | int | list[str]] = {"method": settings.method, "terms": settings.terms}
        if classes is not None:
            query["class_label"] = classes[first : first + IMAGES_PER_REQUEST]
        headers = {"Content-Type": "application/x-npy"}
        query |= {"seed": 0, "index": first}
        answer = client.post("/likelihood", params=query, content=content, headers=headers)
        return [image["bits_per_dimension"] for image in answer.raise_for_status().json()["images"]]

    start_s = time.perf_counter()
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        bits = [each for answer in pool.map(ask, range(0, len(images), IMAGES_PER_REQUEST)) for each in answer]
    return Measured(np.array(bits), time.perf_counter() - start_s)


def npy(array: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def trainers(settings: Settings, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """The same by the trainer's own bound, as `./run evaluate` computes it; None for a family that has none."""
    found = trained(settings.method, settings.checkpoints)
    if found is None or not isinstance(found[1], Network):
        return None
    card, network = found
    x = torch.from_numpy(data.to_model(images, card.shape[-1]))
    totals = torch.stack(measures.bounds(network, x, torch.from_numpy(labels), None, "trainer")).sum(dim=0)
    return totals.double().numpy()


def row(kind: str, bits: NDArray[np.float64], own: NDArray[np.float64] | None, seconds: float | None) -> str:
    """A line of the table; `own` are the bits of the model's own images, which others are to be told from."""
    error = bits.std(ddof=1) / np.sqrt(len(bits))
    area = "" if own is None else f"{roc_area(own, bits):.4f}"
    speed = "" if seconds is None else f"{len(bits) / seconds:.1f}"
    return f"| {kind} | {bits.mean():.4f} | {error:.4f} | {area} | {speed} |"


def roc_area(low: NDArray[np.float64], high: NDArray[np.float64]) -> float:
    """How often one of `high` is above one of `low`, a tie counting half (Mann and Whitney 1947)."""
    ordered = np.sort(low)
    below, not_above = np.searchsorted(ordered, high, "left"), np.searchsorted(ordered, high, "right")
    return float((below + not_above).mean() / (2 * len(low)))


if __name__ == "__main__":
    command_line.run(Settings)
