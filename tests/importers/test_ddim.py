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


@pytest.mark.parametrize(("key", "steps", "eta"), [("uniform20_eta0", 20, 0), ("uniform20_eta05", 20, 0.5), ("uniform30_eta0", 30, 0)])
def test_each_step_from_a_stored_state_is_the_original_one(model: Imported, key: str, steps: int, eta: float) -> None:
    recorded = parity.arrays("ddim_gray28_traj.npz")
    timesteps = published.uniform_timesteps(1000, steps)
    np.testing.assert_array_equal(timesteps[::-1], recorded[f"{key}_seq"])
    for i, k in enumerate(published.ddim_generalized(model.schedule.alphas_cumprod, timesteps, eta=eta)):
        x = recorded[f"{key}_xs"][i]
        x_new, x0 = update(k, x, parity.output(model, x, k.t), 0, recorded["noises"][i])
        parity.assert_near(x0, recorded[f"{key}_x0"][i])
        parity.assert_near(x_new, recorded[f"{key}_xs"][i + 1])
