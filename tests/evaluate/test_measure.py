"""The evaluation as it runs: a real service over the shipped model, and a judge trained on the spot."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bundle.loading import load
from bundle.manifest import MeasuredPoint
from evaluate import classifier
from evaluate.classifier import predict, trained
from evaluate.judge import Judge
from evaluate.measure import Record, evaluate
from evaluate.options import Settings
from models import data
from models.data import Dataset
from models.families import Point
from tests.conftest import REPOSITORY


def bars(n: int) -> Dataset:
    """Two classes that are easy to distinguish: a bright column, or a bright row."""
    rng = np.random.default_rng(0)
    images, labels = np.zeros((n, 1, 28, 28), dtype=np.uint8), rng.integers(2, size=n)
    for image, label, place in zip(images, labels, rng.integers(4, 24, size=n), strict=True):
        image[0, slice(None) if label else place, place if label else slice(None)] = 255
    return Dataset(images, labels, ["0", "1"])  # of which the shipped model has classes


def write_images(folder: Path, dataset: Dataset) -> None:
    for i, (image, label) in enumerate(zip(dataset.images, dataset.labels, strict=True)):
        for split in ("train", "test"):
            path = folder / split / str(dataset.classes[label]) / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0]).save(path)


@pytest.mark.usefixtures("one_thread")
def test_a_classifier_learns_and_is_read_back_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = bars(600)
    model = trained(dataset, 32, tmp_path)
    images = torch.nn.functional.pad(torch.from_numpy(dataset.images).float() / 127.5 - 1, (2, 2, 2, 2), value=-1)
    assert (predict(model, images) == torch.from_numpy(dataset.labels)).double().mean() > 0.95
    monkeypatch.setattr(classifier, "train", lambda *_: pytest.fail("it was trained again"))
    again = trained(dataset, 32, tmp_path)
    for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """An evaluation of the shipped model at its points of 4 steps, 30 images each, against bars."""
    write_images(tmp_path / "data", bars(64))
    shutil.copytree(REPOSITORY / "bundles" / "ddim", tmp_path / "bundles" / "ddim")
    manifest = tmp_path / "bundles" / "ddim" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"measured": {}}))
    return Settings(
        data=tmp_path / "data",
        bundles=tmp_path / "bundles",
        methods=["ddim"],
        images=30,
        steps=[4],
        judges=tmp_path / "judges",
        report=tmp_path / "docs" / "benchmarks" / "quality.md",
    )


@pytest.mark.usefixtures("one_thread")
def test_an_evaluation_asks_the_service_once_a_point_and_fills_manifest_and_report(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load(settings.bundles / "ddim")
    evaluate(settings)
    after = load(settings.bundles / "ddim")
    assert after.manifest.digest == before.manifest.digest
    assert after.manifest.noise_schedule == before.manifest.noise_schedule
    measured = after.manifest.measured
    assert measured.floor is not None
    assert measured.judge == f"{data.load(settings.data, 'train').digest[:16]}-32"
    assert [(point.solver, point.steps, point.settings) for point in measured.points] == [
        ("ddim", 4, {"eta": 0.0}),
        ("ddim", 4, {"eta": 1.0}),
        ("dpmpp_2m", 4, {}),
        ("deis", 4, {}),
        ("fitted", 4, {}),
    ]
    for point in measured.points:
        assert point.images == 30
        assert point.frechet_distance > measured.floor.frechet_distance
        assert None not in (point.precision, point.recall, point.class_agreement, point.class_coverage)
    report = settings.report.read_text()
    lines = [line.split(" | ")[0] for line in report.splitlines() if line.startswith("| ddim")]
    solvers = ["ddim eta=0", "ddim eta=1", "deis", "dpmpp_2m", "fitted"]
    assert lines[-5:] == [f"| ddim, {solver}, 4" for solver in solvers]
    assert lines[:-5]
    assert {*lines[:-5]} <= {*lines[-5:]}  # the Pareto front, above all points
    with (settings.report.parent / "raw" / "quality.csv").open(newline="") as file:
        assert {(row["solver"].split()[0], row["frechet_distance"]) for row in csv.DictReader(file)} == {
            (point.solver, str(point.frechet_distance)) for point in measured.points
        }
    for name in ("trilemma-mnist.png", "ddim.png"):
        with Image.open(tmp_path / "docs" / "images" / name) as picture:
            picture.verify()
    settings.report.write_text(f"Words before.\n{report}Words after.\n")
    monkeypatch.setattr("evaluate.measure.measure", lambda *_: pytest.fail("it was measured again"))
    evaluate(settings)
    assert settings.report.read_text() == f"Words before.\n{report}Words after.\n"


@pytest.mark.usefixtures("one_thread")
def test_a_record_keeps_the_larger_measurement_and_drops_those_of_another_judge(
    settings: Settings, tmp_path: Path
) -> None:
    dataset = bars(100)
    few, many = (Judge(dataset, dataset, 32, images, tmp_path / "judges") for images in (50, 90))
    record = Record(load(settings.bundles / "ddim"))
    record.begin(few)
    assert record.measured.floor == few.of_training_images
    point = Point("ddim", 4, {"eta": 0.0})
    record.add(MeasuredPoint(solver="ddim", steps=4, settings={"eta": 0.0}, alone_ms=1, frechet_distance=2, images=50))
    assert [record.has(point, images) for images in (49, 50, 51)] == [True, True, False]
    record.begin(many)
    record.begin(few)
    assert record.measured.floor == many.of_training_images
    assert record.has(point, 50)
    few.name = "another"
    record.begin(few)
    assert (record.measured.judge, record.measured.floor) == ("another", few.of_training_images)
    assert not record.has(point, 1)


@pytest.mark.usefixtures("one_thread")
def test_a_judge_finds_real_images_near_and_one_image_over_and_over_far(tmp_path: Path) -> None:
    dataset = bars(400)
    judge = Judge(dataset, dataset, 32, 200, tmp_path)
    images = torch.from_numpy(data.to_model(dataset.images, 32))
    real = judge.measure(images, torch.from_numpy(dataset.labels))
    assert real.frechet_distance == pytest.approx(0, abs=1e-3)
    assert (real.precision, real.recall, real.class_coverage) == (1, 1, 1)
    assert real.class_agreement is not None
    assert real.class_agreement > 0.95
    assert real.class_entropy == pytest.approx(1, abs=0.05)
    collapsed = judge.measure(images[:1].expand(200, -1, -1, -1), torch.zeros(200, dtype=torch.int64))
    assert collapsed.frechet_distance > 1
    assert collapsed.recall is not None
    assert collapsed.recall < 0.1
    assert (collapsed.class_coverage, collapsed.class_entropy) == (0.5, 0)
