"""Settings of a training are checked before its first batch, and each mistake is one clear line."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from bundle.manifest import Manifest
from models import checkpoint, command_line, families, training_card
from models.failures import TrainError
from models.train import NAME, Settings
from models.training_card import loss_module
from models.training_loop import Training
from tests.conftest import REPOSITORY
from tests.models.tiny_training import CLASSES, settings

pytestmark = pytest.mark.usefixtures("one_thread")

FAMILIES = ["ddgan", "ddim", "latent", "vdm"]


def data_of(folder: Path, height: int, width: int) -> Path:
    """A data set of one grey image."""
    path = folder / "train" / "x" / "1.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(np.zeros((height, width), dtype=np.uint8)).save(path)
    return folder


def line(capsys: pytest.CaptureFixture[str], *arguments: object, exit_code: int = 1) -> str:
    """What a command line that cannot go on writes to stderr: one line, and nothing else."""
    with pytest.raises(SystemExit) as caught:
        command_line.run(Settings, [str(argument) for argument in arguments])
    assert caught.value.code == exit_code
    error = capsys.readouterr().err
    assert error.startswith("./run train: ")
    assert error.count("\n") == 1
    return error


# --- defaults ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_trains_with_its_own_defaults_as_far_as_a_checkpoint(
    images: Path, tmp_path: Path, family: str
) -> None:
    Training(Settings(data=images, output=tmp_path, family=family, batch_size=2, images=2)).run()
    card, _ = checkpoint.load(tmp_path)
    assert card.name == family
    assert card.shape == (1, 8, 8)
    assert card.recommended_steps == card.training["recommended_steps"] == loss_module(family).RECOMMENDED_STEPS
    assert 1 <= card.recommended_steps <= families.find(family).max_steps(card.noise_schedule)
    assert card.network == loss_module(family).network_settings(8)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("height", "width", "size"), [(28, 28, 32), (32, 32, 32), (33, 33, 40), (1, 1, 8), (20, 30, 32), (5, 41, 48)]
)
def test_the_default_size_is_the_smallest_that_fits_images_and_network(
    tmp_path: Path, family: str, height: int, width: int, size: int
) -> None:
    training = Training(Settings(data=data_of(tmp_path / "data", height, width), output=tmp_path / "o", family=family))
    assert training.card.shape == (1, size, size)
    assert training.card.training["size"] == size
    assert training.images.shape[2:] == (size, size)


def test_a_size_is_taken_by_as_many_levels_as_the_network_has(tmp_path: Path) -> None:
    data = data_of(tmp_path / "data", 28, 28)
    two_levels = Settings(data=data, output=tmp_path / "o", network={"channels": [8, 32]})
    assert Training(two_levels).card.shape == (1, 28, 28)


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("size", "near"), [(28, "24 or 32"), (33, "32 or 40"), (7, "8")])
def test_a_size_that_the_network_cannot_take_is_refused_with_those_that_go(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], family: str, size: int, near: str
) -> None:
    data = data_of(tmp_path / "data", 5, 5)
    error = line(capsys, "--data", data, "--output", tmp_path / "o", "--family", family, "--size", size)
    assert f"its images cannot be {size}×{size}: the sides are multiples of 8, as {near}\n" in error
    assert not (tmp_path / "o").exists()


def test_a_size_below_that_of_the_images_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = line(capsys, "--data", data_of(tmp_path / "data", 20, 41), "--output", tmp_path / "o", "--size", 32)
    assert error == "./run train: --size 32: the images are 20×41: give it 41 or more\n"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--family", "gan"], "--family gan: the families that can be trained are ddgan, ddim, latent, vdm"),
        (["--family", "../x"], "--family ../x: the families"),
        (["--family", "ddgan", "--recommended-steps", "20"], "ddgan has plans of 1 to 4 steps"),
        (["--family", "vdm", "--recommended-steps", "1001"], "vdm has plans of 1 to 1000 steps"),
        (["--network", '{"chanels": [8, 32]}'], "chanels"),
        (["--network", '{"channels": [8, 30]}'], '"channels": [8, 30]'),
        (["--network", '{"channels": []}'], '"channels": []'),
        (["--network", '{"channels": "wide"}'], '"channels": "wide"'),
        (["--network", '{"channels": [-8]}'], '"channels": [-8]'),
        (["--objective", '{"alpha": 1}'], "--objective: no setting 'alpha': this family has none"),
        (["--family", "latent", "--objective", '{"alpha": "x"}'], "--objective: alpha is like 10.0, not 'x'"),
        (
            ["--family", "latent", "--size", "32", "--network", '{"state_shape": [4, 4, 4]}'],
            "a latent's sides are 1/4 of an image's",
        ),
        (["--start", "nowhere"], "nowhere/model.safetensors: No such file or directory"),
        (["--batch-size", str(10**12)], "GB of memory"),
    ],
)
def test_a_setting_that_cannot_go_is_one_line_before_anything_is_written(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str
) -> None:
    error = line(capsys, "--data", images, "--output", tmp_path / "o", *arguments)
    assert problem in error
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "--data: Field required; --output: Field required"),
        (["--batch-size", "0"], "--batch-size: Input should be greater than 0"),
        (["--learning-rate", "inf"], "--learning-rate: Input should be a finite number"),
        (["--seed", "-1"], "--seed: Input should be greater than or equal to 0"),
        (["--network", "{channels"], "network"),
        (["--name", "My Model"], "--name: Value error, a name has lower-case letters, digits and _ . - only"),
        (["--name", "auto"], "is not 'auto'"),
    ],
)
def test_an_option_that_is_missing_or_out_of_range_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str
) -> None:
    places = ["--data", "d", "--output", "o"] if arguments else []
    assert problem in line(capsys, *places, *arguments, exit_code=2)


def test_data_and_outputs_that_cannot_be_used_are_one_line(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "nowhere: no such folder" in line(capsys, "--data", "nowhere", "--output", tmp_path)
    (tmp_path / "file").touch()
    tiny = ["--network", '{"channels": [8, 32]}', "--batch-size", 2, "--images", 2]
    assert "file" in line(capsys, "--data", images, "--output", tmp_path / "file", *tiny)
    broken = tmp_path / "a\nb" / "train" / "x" / "1.png"
    broken.parent.mkdir(parents=True)
    broken.touch()
    assert r"a\nb/train/x/1.png: not a readable image" in line(capsys, "--data", tmp_path / "a\nb", "--output", "o")


def test_a_network_that_fails_on_its_images_is_found_before_the_first_batch(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("mat1 and mat2\nshapes cannot be multiplied")

    monkeypatch.setattr(training_card, "sample", fail)
    with pytest.raises(TrainError, match=r"does not take images of .1, 8, 8.: mat1 and mat2 shapes cannot"):
        Training(settings(images, tmp_path / "o"))


def test_weights_to_start_from_must_be_finite(images: Path, tmp_path: Path, unbroken: Path) -> None:
    card, network = checkpoint.load(unbroken)
    next(network.parameters()).data[0] = float("nan")
    checkpoint.save(tmp_path, card, network.state_dict())
    with pytest.raises(checkpoint.CheckpointError, match=r"conv_in\.weight is not finite"):
        Training(settings(images, tmp_path / "o", start=tmp_path))


def test_a_gpu_that_is_not_there_is_said_to_be_missing(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrainError, match="--device cuda: PyTorch finds no GPU"):
        Training(settings(images, tmp_path, device="cuda"))


@pytest.mark.parametrize("change", [{"batch_size": 0}, {"label_dropout": 1.5}, {"images": -1}, {"learning_rate": 0}])
def test_settings_out_of_range_are_refused(images: Path, change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(change))):
        settings(images, images, **change)


# --- the command ---------------------------------------------------------------------------------------------------


def test_the_command_line_trains(images: Path, tmp_path: Path) -> None:
    arguments = ["--data", str(images), "--output", str(tmp_path / "run"), "--network", '{"channels": [8, 32]}']
    arguments += ["--size", "8", "--batch-size", "2", "--images", "4", "--recommended-steps", "1"]
    command_line.run(Settings, arguments)
    card, _ = checkpoint.load(tmp_path / "run")
    assert card.classes == CLASSES
    assert card.training["batch_size"] == 2
    assert card.training["images_seen"] == 4


def test_a_run_says_what_it_reads_and_what_it_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = data_of(tmp_path / "data", 8, 8)
    for name in (".DS_Store", "Thumbs.db", "notes.txt", "more.txt"):
        (data / "train" / "x" / name).touch()
    Training(settings(data, tmp_path / "o", images=5)).run()
    assert (
        f"{data}: images: 1 of 8×8, grey; classes: 1 (x); left out: 2 .txt, 2 hidden or of the operating system\n"
        in capsys.readouterr().out
    )


def test_an_interrupt_ends_the_command_with_the_exit_code_of_the_signal(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    average = Training._average
    monkeypatch.setattr(Training, "_average", lambda *of: (average(*of), os.kill(os.getpid(), 2)))
    with pytest.raises(SystemExit) as caught:
        command_line.run(
            Settings, ["--data", str(images), "--output", str(tmp_path), "--network", '{"channels": [8, 32]}']
        )
    assert caught.value.code == 130
    assert "batch 1 of 11250; the same command goes on\n" in capsys.readouterr().err


def test_the_environment_does_not_name_the_model_by_accident(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAME", "my-laptop")  # as in WSL
    monkeypatch.setenv("SEED", "77")
    options = settings(images, images)
    assert (options.name, options.seed) == ("", 0)


def test_what_a_training_may_be_called_a_bundle_may_too() -> None:
    pattern = Manifest.model_json_schema()["properties"]["name"]["pattern"]
    assert pattern == f"^{NAME}$"


@pytest.mark.parametrize("module", ["models.train", "export", "evaluate"])
def test_help_needs_none_of_what_takes_long_to_install(module: str) -> None:
    code = f"""
import json, runpy, sys
sys.argv = [{module!r}, "--help"]
try:
    runpy.run_module({module!r}, run_name="__main__")
except SystemExit as end:
    assert not end.code
print(json.dumps([name for name in sys.modules if "." not in name]))
"""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    answer = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    *help, modules = answer.stdout.splitlines()
    assert any("usage: ./run" in line for line in help)
    heavy = {"torch", "diffusers", "matplotlib", "onnx", "safetensors", "tqdm", "scipy", "httpx"}
    assert not heavy & set(json.loads(modules))
