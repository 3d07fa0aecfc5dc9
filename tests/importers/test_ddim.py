"""DDIM's networks against what its authors' code computes with the same weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from importers import ddim
from importers.cards import Card
from importers.imported import Imported
from importers.problems import ImportProblem
from models import published
from models.step import update
from tests.importers import parity

CHECKPOINT = parity.path("ddim_gray28_model.ckpt")
CARD = Card(format="ddim", settings=json.loads(parity.path("ddim_gray28_config.json").read_text()))


@pytest.fixture(scope="module")
def model() -> Imported:
    return ddim.load(CHECKPOINT, CARD)


def test_the_network_is_the_original_one(model: Imported) -> None:
    recorded = parity.arrays("ddim_gray28_io.npz")
    for name, t in [("out_float_t", recorded["t"]), ("out_t0", 0), ("out_t999", 999)]:
        parity.assert_near(parity.output(model, recorded["x"], t), recorded[name])


def test_the_schedule_is_the_original_one(model: Imported) -> None:
    np.testing.assert_array_equal(model.schedule.betas, parity.arrays("ddim_gray28_traj.npz")["betas"])


@pytest.mark.parametrize(
    ("key", "steps", "eta"), [("uniform20_eta0", 20, 0), ("uniform20_eta05", 20, 0.5), ("uniform30_eta0", 30, 0)]
)
def test_each_step_from_a_stored_state_is_the_original_one(model: Imported, key: str, steps: int, eta: float) -> None:
    recorded = parity.arrays("ddim_gray28_traj.npz")
    timesteps = published.uniform_timesteps(1000, steps)
    np.testing.assert_array_equal(timesteps[::-1], recorded[f"{key}_seq"])
    for i, k in enumerate(published.ddim_generalized(model.schedule.alphas_cumprod, timesteps, eta=eta)):
        x = recorded[f"{key}_xs"][i]
        x_new, x0 = update(k, x, parity.output(model, x, k.t), 0, recorded["noises"][i])
        parity.assert_near(x0, recorded[f"{key}_x0"][i])
        parity.assert_near(x_new, recorded[f"{key}_xs"][i + 1])


def saved(tmp_path: Path, content: Any) -> Path:
    torch.save(content, tmp_path / "ckpt.pth")
    return tmp_path / "ckpt.pth"


def training_list(tmp_path: Path, averaged: bool) -> Path:
    """What DDIM's training saves: weights of a `DataParallel`, the optimizer, epoch, step, and EMA weights if any."""
    state = torch.load(CHECKPOINT, weights_only=True)
    wrapped = {f"module.{name}": value if not averaged else -value for name, value in state.items()}
    return saved(tmp_path, [wrapped, {"state": {}, "param_groups": []}, 3, 1000] + ([state] if averaged else []))


@pytest.mark.parametrize("averaged", [True, False])
def test_a_list_gives_its_averaged_weights_or_else_its_only_ones(
    model: Imported, tmp_path: Path, averaged: bool
) -> None:
    settings = CARD.settings | {"model": CARD.settings["model"] | {"ema": None}}
    other = ddim.load(training_list(tmp_path, averaged), Card(format="ddim", settings=settings))
    torch.testing.assert_close(other.network.state_dict(), model.network.state_dict())


def test_a_list_without_the_averaged_weights_of_its_card_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImportProblem, match="without EMA weights"):
        ddim.load(training_list(tmp_path, averaged=False), CARD)


def test_a_network_without_convolutions_between_sizes_halves_by_means(tmp_path: Path) -> None:
    state = torch.load(CHECKPOINT, weights_only=True)
    plain = {name: value for name, value in state.items() if "sample.conv" not in name}
    settings = CARD.settings | {"model": CARD.settings["model"] | {"resamp_with_conv": False}}
    network: Any = ddim.load(saved(tmp_path, plain), Card(format="ddim", settings=settings)).network
    x = torch.arange(16.0).view(1, 1, 4, 4)
    np.testing.assert_allclose(network.down[0].downsample(x)[0, 0], [[2.5, 4.5], [10.5, 12.5]])
    np.testing.assert_allclose(network.up[1].upsample(x)[0, 0, :2, :4], [[0, 0, 1, 1], [0, 0, 1, 1]])
    assert network(torch.zeros(1, 1, 28, 28), torch.zeros(1), torch.zeros(1)).shape == (1, 1, 28, 28)


@pytest.mark.parametrize("schedule", ["linear", "quad", "const", "jsd", "sigmoid"])
def test_a_schedule_ends_at_its_two_betas(schedule: Any) -> None:
    betas = ddim.betas_of(ddim.Diffusion(beta_schedule=schedule, beta_start=0.001, beta_end=0.1))
    ends = {
        "const": (0.1, 0.1),
        "jsd": (0.001, 1),
        "sigmoid": (0.001 + 0.099 / (1 + np.exp(6)), 0.1 - 0.099 / (1 + np.exp(6))),
    }
    np.testing.assert_allclose(betas[[0, -1]], ends.get(schedule, (0.001, 0.1)))
    middle = {"linear": 0.0505, "quad": ((0.001**0.5 + 0.1**0.5) / 2) ** 2, "sigmoid": 0.0505}
    if schedule in middle:
        np.testing.assert_allclose(betas[499:501].mean(), middle[schedule], rtol=1e-3)
