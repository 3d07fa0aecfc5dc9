"""DDGAN's generators against what NVIDIA's code computes with the same weights."""

import json
from typing import Any

import numpy as np
import pytest

from importers import ddgan
from importers.cards import Card
from importers.imported import Imported
from importers.problems import ImportProblem
from models import published
from models.step import update
from tests.importers import parity

SETTINGS = json.loads(parity.path("ddgan_gray28_config.json").read_text())


def card(**settings: Any) -> Card:
    return Card(format="ddgan", settings=SETTINGS | settings)


@pytest.fixture(scope="module")
def model() -> Imported:
    return ddgan.load(parity.path("ddgan_gray28_netG.pth"), card())


@pytest.mark.parametrize(("name", "t"), [("out_t0", 0), ("out_t1", 1), ("out_t_mixed", [0, 1])])
def test_the_generator_is_the_original_one(model: Imported, name: str, t: Any) -> None:
    recorded = parity.arrays("ddgan_gray28_io.npz")
    out = parity.output(model, recorded["x_t"], t, None, recorded["z"])
    parity.assert_near(out, recorded[name])


def test_the_schedule_is_the_original_one(model: Imported) -> None:
    recorded = parity.arrays("ddgan_gray28_traj.npz")
    np.testing.assert_array_equal(model.schedule.betas, recorded["betas"])
    np.testing.assert_array_equal(model.schedule.alphas_cumprod, recorded["alphas_cumprod"])
    plan = published.ddgan(model.schedule.alphas_cumprod)
    np.testing.assert_allclose([k.x_from_x0 for k in plan][::-1], recorded["posterior_mean_coef1"], rtol=1e-5)
    np.testing.assert_allclose([k.x_from_x for k in plan][::-1], recorded["posterior_mean_coef2"], rtol=1e-5)
    np.testing.assert_allclose([k.noise_std**2 for k in plan][::-1], recorded["posterior_variance"], rtol=1e-5)


def test_each_step_from_a_stored_state_is_the_original_one(model: Imported) -> None:
    recorded = parity.arrays("ddgan_gray28_traj.npz")
    for i, k in enumerate(published.ddgan(model.schedule.alphas_cumprod)):
        x = recorded["xs"][i]
        out = parity.output(model, x, k.t, None, recorded["zs"][i])
        x_new, x0 = update(k, x, out, 0, recorded["noises"][i])
        parity.assert_near(x0, recorded["x0_preds"][i])
        parity.assert_near(x_new, recorded["xs"][i + 1])


def test_a_geometric_schedule_has_the_variances_of_its_formula() -> None:
    flags = ddgan.Flags(ch_mult=(1,), use_geometric=True, beta_min=0.01, beta_max=0.9, num_timesteps=3)
    variances = 0.01 * 90 ** np.linspace(1e-3, 1, 4)
    expected = (1 - variances[1:]) / (1 - variances[0])
    np.testing.assert_allclose(ddgan.schedule(flags).alphas_cumprod, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"num_res_blocks": 1}, "surplus"),
        ({"ch_mult": [1, 1, 4]}, "has shape"),
        ({"progressive": "residual"}, "progressive"),
        ({"progressive": "output_skip", "fir": False}, "cannot run progressive 'output_skip' without fir"),
        ({"image_size": 30}, "levels halve the sides"),
        ({"tanh": True}, "tanh"),
    ],
)
def test_settings_of_another_network_are_refused_by_name(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ImportProblem, match=reason):
        ddgan.load(parity.path("ddgan_gray28_netG.pth"), card(**settings))
