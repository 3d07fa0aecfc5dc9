"""A training of a tiny network on twelve images, for tests that stop it and look at it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Generator, Tensor

from models import checkpoint
from models.train import Settings
from models.training_loop import Training

CLASSES = ["a", "b", "c"]
IMAGES = 12
BATCHES = 12
FILES = ["loss.csv", "loss.png", "model.json", "model.safetensors", "samples.png", "state.safetensors"]


def write_images(folder: Path) -> Path:
    """Images 8×8, number i of one grey 20·i and of class i mod 3, so that each is told by its first pixel."""
    for i in range(IMAGES):
        path = folder / "train" / CLASSES[i % 3] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 20 * i, dtype=np.uint8)).save(path)
    return folder


def settings(folder: Path, output: Path, /, **changes: Any) -> Settings:
    """A run of BATCHES batches of a tiny network, with the checkpoint written after 4, 8 and 12 of them."""
    tiny: dict[str, Any] = {
        "network": {"channels": [8, 32]},
        "size": 8,
        "batch_size": 5,
        "images": 5 * BATCHES,
        "save_every": 4,
        "recommended_steps": 2,
    }
    return Settings(data=folder, output=output, **{**tiny, **changes})


def watch(training: Training, before: Callable[..., None], *, learn: bool = True) -> None:
    """Calls `before(x, y, generator)` with every batch; the network learns from it unless `learn` is false."""
    step = training.objective.step

    def watched(x: Tensor, y: Tensor, generator: Generator) -> float:
        before(x, y, generator)
        return step(x, y, generator) if learn else 1.0

    training.objective.step = watched  # type: ignore[method-assign]


def contents(folder: Path) -> dict[str, bytes]:
    """The files that a run leaves, without its lock."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def at_batch(training: Training, number: int, act: Callable[[], object]) -> Training:
    """Has `act` happen when `number` batches are done and the next one begins."""
    watch(training, lambda *_: act() if training.state.batches_done == number else None)
    return training


def state_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "state.safetensors")


def assert_consistent(folder: Path) -> None:
    """The checkpoint loads, and its weights and its card are those of the state beside it."""
    card, _ = checkpoint.load(folder)
    state, weights = state_of(folder), load_file(folder / checkpoint.WEIGHTS)
    assert card.training["images_seen"] == 5 * int(state["batches_done"])
    assert weights
    assert all(torch.equal(value, state[f"ema.{name}"].half()) for name, value in weights.items())
