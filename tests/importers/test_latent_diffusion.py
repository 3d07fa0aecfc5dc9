"""Latent diffusion's networks against what CompVis' code computes with the same weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, VQModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

from importers import latent_diffusion
from importers.cards import Card
from importers.imported import Imported
from models import published
from models.step import update
from tests.importers import parity

SETTINGS = json.loads(parity.path("ldm_vq_config.json").read_text())


def card(**settings: Any) -> Card:
    return Card(format="latent-diffusion", settings=SETTINGS | settings)


@pytest.fixture(scope="module")
def model() -> Imported:
    return latent_diffusion.load(parity.path("ldm_vq_model.ckpt"), card())


def decoded(model: Imported, latents: Any) -> Any:
    assert model.decoder is not None
    with torch.inference_mode():
        return model.decoder.decode(torch.from_numpy(latents)).numpy()


def test_the_network_is_the_original_one_with_averaged_weights(model: Imported) -> None:
    recorded = parity.arrays("ldm_vq_io_traj.npz")
    parity.assert_near(parity.output(model, recorded["x"], recorded["t"]), recorded["out"])


@pytest.mark.parametrize("eta", [0, 1])
def test_each_step_from_a_stored_state_is_the_original_one(model: Imported, eta: int) -> None:
    recorded = parity.arrays("ldm_vq_io_traj.npz")
    plan = published.latent_ddim(model.schedule.alphas_cumprod, 20, eta=eta)
    np.testing.assert_array_equal([k.t for k in plan][::-1], recorded["ddim_timesteps"])
    np.testing.assert_allclose([k.noise_std for k in plan][::-1], recorded[f"eta{eta}_sigmas"], rtol=1e-5)
    for i, k in enumerate(plan):
        x = recorded[f"eta{eta}_xs"][i]
        x_new, x0 = update(k, x, parity.output(model, x, k.t), 0, recorded["noises"][i])
        parity.assert_near(x0, recorded[f"eta{eta}_x0"][i])
        parity.assert_near(x_new, recorded[f"eta{eta}_xs"][i + 1])


def test_the_decoder_is_the_original_one_and_quantises(model: Imported) -> None:
    recorded = parity.arrays("ldm_vq_io_traj.npz")
    parity.assert_near(decoded(model, recorded["eta0_final"]), recorded["decoded_eta0"])
    parity.assert_near(decoded(model, recorded["rand_latent"]), recorded["rand_decoded"])
    assert isinstance(model.decoder, latent_diffusion.FirstStage)
    assert model.decoder.quantize is not None
    codes = model.decoder.quantize(torch.from_numpy(recorded["encoded_prequant"]))
    parity.assert_near(codes, recorded["quantized"])


def test_a_first_stage_of_codes_decodes_them_as_they_are() -> None:
    recorded = parity.arrays("ldm_vq_io_traj.npz")
    first_stage = SETTINGS["first_stage_config"] | {"target": "ldm.models.autoencoder.VQModel"}
    model = latent_diffusion.load(parity.path("ldm_vq_model.ckpt"), card(first_stage_config=first_stage))
    parity.assert_near(decoded(model, recorded["rand_latent"]), recorded["rand_decoded_noquant"])


UNET = {
    "image_size": 8, "in_channels": 4, "out_channels": 4, "model_channels": 32, "attention_resolutions": [2, 1],
    "num_res_blocks": 1, "channel_mult": [1, 2], "num_head_channels": 32,
}  # fmt: skip
CLASSES = {"use_spatial_transformer": True, "transformer_depth": 2, "context_dim": 12}
AUTOENCODER = {
    "double_z": True, "z_channels": 4, "resolution": 16, "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1, 2],
    "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip


def class_settings(first_stage: str, **params: Any) -> dict[str, Any]:
    """A network of 6 classes and a label for "no class"."""
    return {
        "unet_config": {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": UNET | CLASSES},
        "first_stage_config": {
            "target": f"ldm.models.autoencoder.{first_stage}",
            "params": {"embed_dim": 4, "ddconfig": AUTOENCODER} | params,
        },
        "cond_stage_config": {
            "target": "ldm.modules.encoders.modules.ClassEmbedder",
            "params": {"n_classes": 7, "embed_dim": 12},
        },
        "conditioning_key": "crossattn",
        "null_label": 6,
        "image_size": 8,
        "channels": 4,
        "scale_by_std": True,
    }


def random_state(settings: dict[str, Any]) -> dict[str, torch.Tensor]:
    """A checkpoint of the settings with random weights."""
    torch.manual_seed(0)
    flags = latent_diffusion.Flags.model_validate(settings)
    params = flags.first_stage_config.params
    unet = latent_diffusion.build(flags.unet_config.params, 7)
    stage = latent_diffusion.FirstStage(params.ddconfig, params.embed_dim, params.n_embed, 1.0)
    for parameter in [*unet.parameters(), *stage.parameters()]:
        torch.nn.init.normal_(parameter, std=0.2)
    betas = torch.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2
    state = {"scale_factor": torch.tensor(0.22), "betas": betas, "alphas_cumprod": (1 - betas).cumprod(0)}
    state["cond_stage_model.embedding.weight"] = unet.state_dict()["embedding.weight"]
    for name, value in unet.state_dict().items():
        if name != "embedding.weight":
            state[f"model.diffusion_model.{name}"] = torch.randn_like(value)
            state["model_ema." + f"diffusion_model.{name}".replace(".", "")] = value
    return state | {f"first_stage_model.{name}": value for name, value in stage.state_dict().items()}


def test_classes_by_cross_attention_are_those_of_diffusers(tmp_path: Path) -> None:
    settings = class_settings("AutoencoderKL")
    state = random_state(settings)
    reference = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=12,
        attention_head_dim=(1, 2),  # which diffusers takes for the number of heads
        transformer_layers_per_block=2,
    ).eval()
    reference.load_state_dict(convert_ldm_unet_checkpoint(state, reference.config, extract_ema=True))
    torch.save({"state_dict": state, "epoch": 1}, tmp_path / "model.ckpt")
    model = latent_diffusion.load(tmp_path / "model.ckpt", Card(format="latent-diffusion", settings=settings))
    x, t, y = torch.randn(3, 4, 8, 8), torch.tensor([1, 51, 951]), torch.tensor([0, 6, 5])
    context = state["cond_stage_model.embedding.weight"][y][:, None]
    with torch.inference_mode():
        expected = reference(x, t, context).sample.numpy()
    parity.assert_near(parity.output(model, x, t, y), expected)
    assert (len(model.classes), model.unconditional) == (6, True)
    assert (model.shape, model.state_shape) == ((3, 16, 16), (4, 8, 8))


@pytest.mark.parametrize(("kind", "params"), [("AutoencoderKL", {}), ("VQModelInterface", {"n_embed": 32})])
def test_the_decoder_is_that_of_diffusers(tmp_path: Path, kind: str, params: dict[str, Any]) -> None:
    settings = class_settings(kind, **params)
    state = random_state(settings)
    layout: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (32, 64),
        "latent_channels": 4,
    }
    network = VQModel(num_vq_embeddings=32, **layout) if params else AutoencoderKL(**layout)
    converted = convert_ldm_vae_checkpoint(state, network.config)
    if params:
        converted["quantize.embedding.weight"] = state["first_stage_model.quantize.embedding.weight"]
    lacking = network.load_state_dict(converted, strict=False)
    assert not lacking.unexpected_keys
    assert all(name.startswith(("encoder.", "quant_conv.")) for name in lacking.missing_keys)
    torch.save({"state_dict": state}, tmp_path / "model.ckpt")
    model = latent_diffusion.load(tmp_path / "model.ckpt", Card(format="latent-diffusion", settings=settings))
    latents = torch.randn(2, 4, 8, 8)
    with torch.inference_mode():
        expected = network.eval().decode(latents / 0.22).sample.numpy()
    parity.assert_near(decoded(model, latents.numpy()), expected)
