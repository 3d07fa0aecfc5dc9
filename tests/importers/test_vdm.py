"""VDM's networks against what Google's code computes with the same parameters, in JAX."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from importers import vdm
from importers.cards import Card
from importers.imported import Imported
from importers.problems import ImportProblem
from models import published
from models.step import update
from models.vdm.plan import gammas
from tests.importers import parity

CHECKPOINT = parity.path("vdm_nnet16.flax")
SETTINGS = json.loads(parity.path("vdm_nnet16_config.json").read_text()) | {"image_size": 16}


def card(**settings: Any) -> Card:
    return Card(format="vdm", settings=SETTINGS | settings)


@pytest.fixture(scope="module")
def model() -> Imported:
    return vdm.load(CHECKPOINT, card())


def channels_first(images: NDArray[Any]) -> NDArray[Any]:
    """(…, H, W, C) → (…, C, H, W)."""
    return np.moveaxis(images, -1, -3)


@pytest.mark.parametrize("i", range(4))
def test_the_network_is_the_original_one(model: Imported, i: int) -> None:
    recorded = parity.arrays("vdm_nnet16_io.npz")
    out = parity.output(model, channels_first(recorded["z"]), recorded[f"g{i}"])
    parity.assert_near(out, channels_first(recorded[f"eps_hat_g{i}"]))


def test_the_schedule_is_the_original_one(model: Imported) -> None:
    recorded = parity.arrays("vdm_nnet16_io.npz")
    knots = model.schedule.gamma
    gamma = np.interp(recorded["t_grid"], np.linspace(0, 1, len(knots)), knots)
    np.testing.assert_allclose(gamma, recorded["gamma_grid"], atol=2e-6)


def test_each_step_from_a_stored_state_is_the_original_one(model: Imported) -> None:
    recorded = parity.arrays("vdm_nnet16_io.npz")
    plan = published.vdm(*gammas({"gamma": model.schedule.gamma}, int(recorded["T"])))
    for i, k in enumerate(plan):
        x, noise = channels_first(recorded["zs"][i]), channels_first(recorded["noises"][i])
        x_new, _ = update(k, x, parity.output(model, x, k.t), 0, noise)
        parity.assert_near(x_new, channels_first(recorded["zs"][i + 1]))


def test_the_decoder_gives_the_original_pixels(model: Imported) -> None:
    recorded = parity.arrays("vdm_nnet16_io.npz")
    assert model.decoder is not None
    images = model.decoder.decode(torch.from_numpy(channels_first(recorded["zs"][-1]).copy())).numpy()
    np.testing.assert_allclose((images + 1) * 127.5, channels_first(recorded["samples_uint"]), atol=1e-3)


def test_the_decoder_takes_the_likeliest_value() -> None:
    z = torch.from_numpy(np.random.default_rng(0).uniform(-1.3, 1.3, 4000))
    values = (2 * torch.arange(256) + 1) / 256 - 1  # x_v of the paper's appendix, and the original's encoder
    logits = -0.5 * ((z[:, None] - values) * np.exp(13.3 / 2)) ** 2
    decoder = vdm.PixelValues(256, -13.3)
    alpha = np.sqrt(1 / (1 + np.exp(-13.3)))
    np.testing.assert_allclose((decoder.decode(z * alpha) + 1) * 127.5, logits.argmax(dim=1), atol=1e-9)


def test_the_parameters_alone_show_the_architecture(model: Imported) -> None:
    shown = vdm.load(CHECKPOINT, Card(format="vdm", settings={"image_size": 16}))
    torch.testing.assert_close(shown.network.state_dict(), model.network.state_dict())
    np.testing.assert_array_equal(shown.schedule.gamma, model.schedule.gamma)


@pytest.mark.parametrize(
    "settings",
    [{"gamma_type": "fixed"}, {"sm_n_layer": 32}, {"with_attention": True}, {"with_fourier_features": False}],
)
def test_a_card_that_the_parameters_contradict_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ImportProblem, match=f"the card says {next(iter(settings))}"):
        vdm.load(CHECKPOINT, card(**settings))


def test_a_learned_schedule_rises(model: Imported) -> None:
    """Its weights are taken positive (arXiv 2107.00630, appendix H)."""
    assert (np.diff(model.schedule.gamma) > 0).all()
