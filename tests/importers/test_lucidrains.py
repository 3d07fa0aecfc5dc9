"""Milestones of denoising-diffusion-pytorch beside what the library computed, and beside the library itself."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from importers import lucidrains
from importers.cards import Card
from importers.formats import Format
from importers.imported import Imported
from importers.problems import ImportProblem
from importers.reading import read_torch
from tests.importers import parity
from tests.importers.parity import assert_near, output

FILE = "luci_v_sigmoid16_model-1.pt"


def load(path: Path, **settings: Any) -> Imported:
    return lucidrains.load(path, Card(format=Format.LUCIDRAINS, settings={"image_size": 16, **settings}))


@pytest.fixture(scope="module")
def recorded() -> Imported:
    return load(parity.path(FILE), sampling_timesteps=10)


@pytest.fixture(scope="module")
def library() -> Any:
    """denoising-diffusion-pytorch itself. Its trainer draws and loads images by torchvision, which is not installed.

    Empty modules stand in for that while the library is imported: whatever used them would fail.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in ("torchvision", "torchvision.transforms", "torchvision.utils"):
            patch.setitem(sys.modules, name, ModuleType(name))
        return importlib.import_module("denoising_diffusion_pytorch.denoising_diffusion_pytorch")


def test_the_recorded_outputs_are_given(recorded: Imported) -> None:
    io = parity.arrays("luci_v_sigmoid16_io.npz")
    assert_near(output(recorded, io["x"], io["t"]), io["out"])
    assert_near(output(recorded, io["x"], 0), io["out_t0"])
    assert recorded.prediction == "v"
    assert recorded.sampler == "ddim"
    assert recorded.shape == (3, 16, 16)


def test_the_schedule_is_that_of_the_buffers(recorded: Imported) -> None:
    io = parity.arrays("luci_v_sigmoid16_io.npz")
    np.testing.assert_array_equal(recorded.schedule.betas, io["buf_betas"].astype(np.float64))
    np.testing.assert_allclose(recorded.schedule.alphas_cumprod, io["buf_alphas_cumprod"], rtol=1e-6)


def milestone(path: Path, **changes: Any) -> Path:
    """The recorded milestone with other EMA entries, or without those that are None."""
    file = read_torch(parity.path(FILE))
    changed = {**file["ema"], **{f"ema_model.{name}": value for name, value in changes.items()}}
    file["ema"] = {name: value for name, value in changed.items() if value is not None}
    torch.save(file, path)
    return path


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("objective", ["pred_noise", "pred_x0", "pred_v"])
def test_the_objective_is_seen_in_the_losss_weights(tmp_path: Path, objective: str, cut: bool) -> None:
    alphas_cumprod = parity.arrays("luci_v_sigmoid16_io.npz")["buf_alphas_cumprod"].astype(np.float64)
    snr = alphas_cumprod / (1 - alphas_cumprod)
    kept = np.minimum(snr, 5) if cut else snr  # arXiv 2303.09556
    weight = {"pred_noise": kept / snr, "pred_x0": kept, "pred_v": kept / (snr + 1)}[objective]
    path = milestone(tmp_path / "model-1.pt", loss_weight=torch.from_numpy(weight.astype(np.float32)))
    assert load(path).prediction == lucidrains.PREDICTIONS[objective]


def test_what_a_milestone_lacks_has_to_come_by_card(tmp_path: Path) -> None:
    path = milestone(tmp_path / "model-1.pt", loss_weight=None)
    with pytest.raises(ImportProblem, match="a card has to say it"):
        load(path)
    assert load(path, objective="pred_x0").prediction == "x0"
    with pytest.raises(ImportProblem, match="image_size: Field required"):
        lucidrains.load(path, Card(format=Format.LUCIDRAINS))


def test_the_arguments_of_the_library_may_be_in_the_card_and_are_compared() -> None:
    config = json.loads(parity.path("luci_v_sigmoid16_config.json").read_text())
    arguments = {**config["unet"], **config["diffusion"]}
    assert load(parity.path(FILE), **arguments).settings == {"steps": 10, "eta": 0.0}
    for name, other in {"dim": 32, "dim_mults": (1, 2), "timesteps": 500, "self_condition": True}.items():
        with pytest.raises(ImportProblem, match=f"the card says {name} = "):
            load(parity.path(FILE), **{**arguments, name: other})


@pytest.mark.parametrize("betas", [None, torch.zeros(0), torch.full((3,), 2.0), torch.ones(3, 3), torch.ones(3).long()])
def test_buffers_that_are_no_schedule_are_refused(tmp_path: Path, betas: torch.Tensor | None) -> None:
    with pytest.raises(ImportProblem, match="betas"):
        load(milestone(tmp_path / "model-1.pt", betas=betas))


@pytest.mark.parametrize(
    "changes",
    [
        {"self_condition": True},
        {"learned_sinusoidal_cond": True, "full_attn": (True, False, False)},
        {"random_fourier_features": True, "learned_sinusoidal_dim": 8, "channels": 1},
        {"attn_heads": (2, 4, 8), "attn_dim_head": (16, 32, 8), "init_dim": 24},
        {"sinusoidal_pos_emb_theta": 100, "flash_attn": False, "dim_mults": (1, 2)},
        {"learned_variance": True, "dim_mults": (1,)},
    ],
)
def test_settings_of_the_unet_beside_the_library(library: Any, tmp_path: Path, changes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    unet = library.Unet(**{"dim": 16, "dim_mults": (1, 2, 2), **changes}).eval()
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    betas = library.cosine_beta_schedule(50).float()
    snr = torch.cumprod(1 - betas.double(), 0) / (1 - torch.cumprod(1 - betas.double(), 0))
    ema = {"betas": betas, "alphas_cumprod": (snr / (snr + 1)).float(), "loss_weight": snr.float()}
    ema |= {f"model.{name}": w for name, w in unet.state_dict().items()}
    file = {"step": 7, "model": {}, "ema": {f"ema_model.{name}": tensor for name, tensor in ema.items()}}
    torch.save(file, tmp_path / "model-7.pt")
    theta = changes.get("sinusoidal_pos_emb_theta", 10000)
    model = load(tmp_path / "model-7.pt", sinusoidal_pos_emb_theta=theta)
    x, x0_prev, t = torch.randn(2, *model.shape), torch.randn(2, *model.shape), torch.tensor([3, 41])
    extra = [x0_prev] if model.self_condition else []
    with torch.inference_mode():
        expected = unet(x, t, *extra)
    assert_near(output(model, x, t, None, *extra), expected.numpy())
    assert model.self_condition == ("self_condition" in changes)
    assert model.variance == ("learned_range" if "learned_variance" in changes else "fixed_small")
    assert model.prediction == "x0"
