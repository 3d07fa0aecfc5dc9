"""The evaluation as it runs: a real service over the shipped model, and a judge trained on the spot."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models import classifier
from models.classifier import predict, trained
from models.data import Dataset
from models.evaluate import Settings, evaluate
from service.bundle import load
from tests.conftest import REPOSITORY


def bars(n: int) -> Dataset:
    """Two classes that anyone can tell apart: a bright column, or a bright row."""
    rng = np.random.default_rng(0)
    images, labels = np.zeros((n, 1, 28, 28), dtype=np.uint8), rng.integers(2, size=n)
    for image, label, place in zip(images, labels, rng.integers(4, 24, size=n), strict=True):
        image[0, slice(None) if label else place, place if label else slice(None)] = 255
    return Dataset(images, labels, ["row", "column"])


def write_images(folder: Path, dataset: Dataset) -> None:
    for i, (image, label) in enumerate(zip(dataset.images, dataset.labels, strict=True)):
        for split in ("train", "test"):
            path = folder / split / str(dataset.classes[label]) / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0]).save(path)


@pytest.mark.usefixtures("one_thread")
def test_a_classifier_learns_and_is_read_back_from_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = bars(600)
    judge = trained(dataset, 32, tmp_path)
    images = torch.nn.functional.pad(torch.from_numpy(dataset.images).float() / 127.5 - 1, (2, 2, 2, 2), value=-1)
    assert (predict(judge, images) == torch.from_numpy(dataset.labels)).double().mean() > 0.95
    monkeypatch.setattr(classifier, "train", lambda *_: pytest.fail("it was trained again"))
    again = trained(dataset, 32, tmp_path)
    for a, b in zip(judge.state_dict().values(), again.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.usefixtures("one_thread")
def test_an_evaluation_asks_the_service_and_fills_the_manifest(tmp_path: Path) -> None:
    write_images(tmp_path / "data", bars(64))
    shutil.copytree(REPOSITORY / "bundles" / "ddim", tmp_path / "bundles" / "ddim")
    before = load(tmp_path / "bundles" / "ddim")
    settings = Settings(
        data=tmp_path / "data",
        bundles=tmp_path / "bundles",
        images_per_class=10,
        steps=[3, 2],
        eta=1.0,
        cache=tmp_path / "cache",
        pictures=tmp_path / "pictures",
    )
    evaluate(settings)
    evaluate(settings)  # again: each point takes the place of its older self
    after = load(tmp_path / "bundles" / "ddim")
    points = after.manifest.measured["points"]
    measured = [point for point in points if point["settings"] == {"eta": 1.0} and point["steps"] in (3, 2)]
    assert [(point["steps"], point["solver"], point["images"]) for point in measured] == [
        (3, "ddim", 100),
        (2, "ddim", 100),
    ]
    assert all(0 <= point["class_agreement"] <= 1 for point in measured)
    assert all(point in points for point in before.manifest.measured.get("points", []))
    assert after.digest == before.digest
    unchanged = json.loads((before.folder / "manifest.json").read_text())
    assert unchanged["noise_schedule"] == before.manifest.noise_schedule
    with Image.open(tmp_path / "pictures" / "ddim-3-steps.png") as picture:
        assert picture.size == (320, 320)
