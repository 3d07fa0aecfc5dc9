"""OpenAI's U-Net beside what the official code computed, and the cards for OpenAI's files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from azula.plugins.adm._src.unet import UNetModel

from importers import cards, openai_checkpoint
from importers.cards import Card
from importers.formats import Format
from importers.imported import Imported
from importers.problems import ImportProblem
from tests.importers import parity
from tests.importers.parity import assert_near, denoised, output


def load(name: str, format: Format, **changes: object) -> Imported:
    settings = json.loads(parity.path(f"{name}_config.json").read_text())["args"]
    return openai_checkpoint.load(parity.path(f"{name}.pt"), Card(format=format, settings={**settings, **changes}))


@pytest.fixture(scope="module")
def improved() -> Imported:
    return load("id_cosine32", Format.IMPROVED)


@pytest.fixture(scope="module")
def karras() -> Imported:
    return load("cm_edm_uncond16", Format.CONSISTENCY)


@pytest.mark.parametrize(("time", "out"), [("t", "out"), (0, "out_t0"), ("float_t", "out_float_t")])
def test_improved_diffusion_gives_the_recorded_outputs(improved: Imported, time: str | int, out: str) -> None:
    io = parity.arrays("id_cosine32_io.npz")
    t = io[time] if isinstance(time, str) else time
    assert_near(output(improved, io["x"], t), io[out])


def test_the_cosine_schedule_is_the_recorded_one(improved: Imported) -> None:
    io = parity.arrays("id_cosine32_io.npz")
    np.testing.assert_allclose(improved.schedule.betas, io["full_betas"], rtol=0, atol=1e-15)
    np.testing.assert_allclose(improved.schedule.alphas_cumprod, io["full_alphas_cumprod"], rtol=0, atol=1e-15)


@pytest.mark.parametrize("key", ["p20", "ddim20_eta0"])
def test_rescaled_times_are_those_that_the_network_got(improved: Imported, key: str) -> None:
    recorded = parity.arrays("id_cosine32_traj.npz")
    visited = recorded[f"{key}_timestep_map"][::-1]
    np.testing.assert_array_equal(improved.schedule.times[visited].astype(np.float32), recorded[f"{key}_model_t"])


def test_the_consistency_network_gives_the_recorded_outputs(karras: Imported) -> None:
    io = parity.arrays("cm_edm_uncond16_io.npz")
    assert_near(output(karras, io["x"], io["F_t"]), io["F_out"])
    for index, sigma in enumerate(io["sigma_grid"]):
        assert_near(denoised(karras, io[f"x_grid{index}"], sigma), io[f"denoised_grid{index}"])
    assert_near(denoised(karras, io["x"], io["sigma_mixed"]), io["denoised_mixed"])


@pytest.mark.parametrize("run", ["heun10", "heun10_churn", "euler10", "ancestral10", "dpm10"])
def test_every_call_of_the_karras_samplers_is_reproduced(karras: Imported, run: str) -> None:
    recorded = parity.arrays("cm_edm_uncond16_traj.npz")
    calls = zip(recorded[f"{run}_call_x"], recorded[f"{run}_call_sigma"], strict=True)
    for (x, sigma), expected in zip(calls, recorded[f"{run}_call_denoised_unclipped"], strict=True):
        assert_near(denoised(karras, x, sigma), expected)


def test_a_consistency_model_gives_its_input_back_at_the_least_sigma() -> None:
    """The boundary condition (arXiv 2303.01469, eq. 5); EDM's own scaling does not have it."""
    model = load("cm_edm_uncond16", Format.CONSISTENCY, training_mode="consistency_training")
    x = np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)
    np.testing.assert_allclose(denoised(model, x, 0.002), x, rtol=1e-12)
    assert model.sampler == "onestep"


def test_a_flag_that_the_weights_contradict_is_refused() -> None:
    with pytest.raises(ImportProblem, match="num_res_blocks = 3, the weights say 1"):
        load("id_cosine32", Format.IMPROVED, num_res_blocks=3)
    with pytest.raises(ImportProblem, match="attention_resolutions"):
        load("id_cosine32", Format.IMPROVED, attention_resolutions="32")
    with pytest.raises(ImportProblem, match="heads"):
        load("id_cosine32", Format.IMPROVED, num_heads=5)


def test_a_card_that_lacks_the_image_size_or_has_an_unknown_flag_is_refused() -> None:
    with pytest.raises(ImportProblem, match="image_size: Field required"):
        openai_checkpoint.load(parity.path("id_cosine32.pt"), Card(format=Format.IMPROVED))
    with pytest.raises(ImportProblem, match="num_layers: Extra inputs are not permitted"):
        load("id_cosine32", Format.IMPROVED, num_layers=3)


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(cards.PUBLISHED.glob("*.toml")) if cards.load(path).format in openai_checkpoint.FLAGS],
    ids=lambda path: path.stem,
)
def test_a_published_card_has_flags_of_its_format(path: Path) -> None:
    card = cards.load(path)
    flags = cards.parse(card.settings, openai_checkpoint.FLAGS[card.format], path.name)
    assert all(cards.published(name) == card for name in card.files)
    assert flags.num_channels


def test_no_card_is_published_for_an_unknown_name() -> None:
    assert cards.published("model.pt") is None


@pytest.mark.parametrize("new_order", [False, True])
@pytest.mark.parametrize("updown", [False, True])
@pytest.mark.parametrize("classes", [None, 5])
def test_settings_of_guided_diffusion_beside_azula(
    tmp_path: Path, new_order: bool, updown: bool, classes: int | None
) -> None:
    torch.manual_seed(0)
    reference = UNetModel(
        image_size=16, in_channels=3, model_channels=64, out_channels=6, num_res_blocks=2, attention_resolutions={2},
        channel_mult=(0.5, 1, 2), num_classes=classes, num_head_channels=16, use_scale_shift_norm=updown,
        resblock_updown=updown, use_new_attention_order=new_order, conv_resample=new_order,
    ).eval()  # fmt: skip
    for parameter in reference.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    torch.save(reference.state_dict(), tmp_path / "model.pt")
    settings = {"image_size": 16, "num_head_channels": 16, "use_new_attention_order": new_order}
    model = openai_checkpoint.load(tmp_path / "model.pt", Card(format=Format.GUIDED, settings=settings))
    x, t, y = torch.randn(2, 3, 16, 16), torch.tensor([3.0, 871.0]), torch.tensor([4, 0])
    with torch.inference_mode():
        expected = reference(x, t, **({"y": y} if classes else {}))
    assert_near(output(model, x, t, y), expected.numpy())
    assert model.shape == (3, 16, 16)
    assert model.variance == "learned_range"
