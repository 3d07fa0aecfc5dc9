"""A checkpoint gives back the network that was saved, and says what it does not understand."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from models import checkpoint
from models.checkpoint import Card
from models.failures import CheckpointError
from models.schedules import cosine_schedule

pytestmark = pytest.mark.usefixtures("one_thread")

CARD = Card(
    name="tiny",
    family="ddim",
    shape=(1, 8, 8),
    classes=["a", "b"],
    noise_schedule={"alphas_cumprod": cosine_schedule(1000).tolist()},
    network={"channels": [8, 32]},
    recommended_steps=20,
    training={"seed": 0, "learning_rate": 1e-3},
)


@pytest.fixture
def saved(tmp_path: Path) -> nn.Module:
    """A network whose checkpoint is in `tmp_path`."""
    network = CARD.build().eval()
    checkpoint.save(tmp_path, CARD, network.state_dict())
    return network


def test_a_loaded_checkpoint_predicts_what_the_saved_network_did(saved: nn.Module, tmp_path: Path) -> None:
    card, loaded = checkpoint.load(tmp_path)
    assert card == CARD
    assert not loaded.training
    inputs = torch.randn(3, 1, 8, 8), torch.tensor([0.0, 500.0, 999.0]), torch.tensor([0, 1, 2])
    assert torch.equal(loaded(*inputs), saved(*inputs))


def test_the_noise_schedule_keeps_its_float64_digits(saved: nn.Module, tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path)[0].noise_schedule["alphas_cumprod"] == cosine_schedule(1000).tolist()


def test_saving_again_leaves_nothing_but_the_new_checkpoint(saved: nn.Module, tmp_path: Path) -> None:
    weights = {name: value + 1 for name, value in saved.state_dict().items()}
    checkpoint.save(tmp_path, CARD.model_copy(update={"name": "newer"}), weights)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.safetensors"]
    card, loaded = checkpoint.load(tmp_path)
    assert card.name == "newer"
    assert all(torch.equal(value, weights[name]) for name, value in loaded.state_dict().items())


def test_a_failed_write_leaves_the_old_weights(
    saved: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(_: object, path: Path) -> None:
        path.write_bytes(b"half of i")
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(OSError, match="no space left"):
        checkpoint.save(tmp_path, CARD.model_copy(update={"name": "newer"}), saved.state_dict())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.safetensors"]
    card, loaded = checkpoint.load(tmp_path)
    assert card == CARD
    assert all(torch.equal(value, saved.state_dict()[name]) for name, value in loaded.state_dict().items())


@pytest.mark.parametrize(("key", "value"), [("colour", "red"), ("shape", [1, 8]), ("recommended_steps", "many")])
@pytest.mark.usefixtures("saved")
def test_a_card_that_is_not_understood_is_refused_with_the_key_named(tmp_path: Path, key: str, value: object) -> None:
    path = tmp_path / checkpoint.CARD
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(CheckpointError, match=f"^{path}: {key}"):
        checkpoint.load(tmp_path)


@pytest.mark.usefixtures("saved")
def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / checkpoint.CARD
    path.write_text(json.dumps({**json.loads(path.read_text()), "network": {"channels": [16, 32]}}))
    with pytest.raises(CheckpointError, match=r"not the network that model\.json says .*size mismatch") as caught:
        checkpoint.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["model.json", "model.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"\xff" * 100])
@pytest.mark.usefixtures("saved")
def test_a_file_that_is_missing_or_damaged_is_named(tmp_path: Path, file: str, content: bytes | None) -> None:
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"^{tmp_path / file}: "):
        checkpoint.load(tmp_path)


@pytest.mark.usefixtures("saved")
def test_a_family_that_there_is_not_is_refused_and_nothing_is_imported(tmp_path: Path) -> None:
    path = tmp_path / checkpoint.CARD
    path.write_text(json.dumps({**json.loads(path.read_text()), "family": "..os"}))
    with pytest.raises(CheckpointError, match=r"no family '\.\.os': the families are ddgan, ddim"):
        checkpoint.load(tmp_path)
