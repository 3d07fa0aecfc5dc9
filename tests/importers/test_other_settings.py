"""Settings that no shared parity file has, against recorded outputs of the official code (`recorded/README.md`)."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from importers import ddim, latent_diffusion, vdm
from importers.cards import Card
from importers.latent_settings import DecoderConfig, UNetParams
from importers.networks import ncsnpp, vdm_unet
from importers.networks.autoencoder import Decoder
from importers.networks.ddpm_unet import UNet
from tests.importers import parity

RECORDED = dict(np.load(Path(__file__).parent / "recorded" / "official_outputs.npz"))

GENERATOR = {
    "num_channels_dae": 16, "n_mlp": 1, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [4],
    "image_size": 8, "nz": 6, "z_emb_dim": 12,
}  # fmt: skip
GENERATORS: dict[str, dict[str, Any]] = {
    "input_skip sum": {"progressive_input": "input_skip", "skip_rescale": False},
    "input_skip cat, output_skip": {
        "progressive_input": "input_skip", "progressive_combine": "cat", "progressive": "output_skip",
    },
    "ddpm blocks": {"resblock_type": "ddpm", "resamp_with_conv": False, "progressive_input": "none"},
    "one modulated norm, no tanh, [0, 1]": {
        "resblock_type": "biggan_oneadagn", "not_use_tanh": True, "centered": False,
    },
    "no FIR": {"fir": False, "ch_mult": [1, 2, 1], "num_channels": 1},
    "no time, no mapping": {"conditional": False, "n_mlp": 0},
    "asymmetric kernel": {"fir_kernel": [1, 2, 3, 5]},
    "odd kernel": {"fir_kernel": [1, 2, 1], "progressive": "output_skip"},
}  # fmt: skip
DDIM = {"in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [8]}
DDIMS = {
    "means between sizes": {"resamp_with_conv": False, "num_res_blocks": 2},
    "falling widths, attention at two sizes": {"ch_mult": [2, 1, 2], "attn_resolutions": [8, 2]},
}
LATENT = {
    "in_channels": 3, "model_channels": 32, "out_channels": 3, "num_res_blocks": 1, "attention_resolutions": [2],
    "channel_mult": [1, 2], "num_heads": 2,
}  # fmt: skip
TRANSFORMERS = {"use_spatial_transformer": True, "context_dim": 6}
WIDE_HEADS = {"num_head_channels": 24, "num_heads": -1, "attention_resolutions": [1, 2], "channel_mult": [1, 3]}
LATENTS: dict[str, dict[str, Any]] = {
    "heads by width": {"num_head_channels": 16, "num_heads": -1},
    "new attention order, residual resampling": {
        "use_new_attention_order": True, "resblock_updown": True, "use_scale_shift_norm": True,
    },
    "other heads upward, means between sizes": {"num_heads_upsample": 4, "conv_resample": False},
    "other heads upward, not legacy": {"num_heads_upsample": 4, "legacy": False},
    "transformers, legacy": {**TRANSFORMERS, **WIDE_HEADS, "transformer_depth": 2},
    "transformers, not legacy": {**TRANSFORMERS, **WIDE_HEADS, "legacy": False},
    "transformers of num_heads": {
        **TRANSFORMERS, "num_heads": 4, "use_scale_shift_norm": True, "resblock_updown": True,
    },
}  # fmt: skip
DECODER = {"z_channels": 3, "resolution": 8, "out_ch": 3, "ch": 32, "ch_mult": [1, 2], "num_res_blocks": 1}
DECODERS: dict[str, dict[str, Any]] = {
    "attention in the levels": {"attn_resolutions": [8, 4]},
    "linear attention, tanh": {"attn_resolutions": [], "attn_type": "linear", "tanh_out": True},
    "no attention, no convolutions": {"attn_resolutions": [4], "attn_type": "none", "resamp_with_conv": False},
}
VDM = {
    "image_size": 4, "with_fourier_features": True, "with_attention": False, "gamma_min": -13.3, "gamma_max": 5.0,
    "sm_n_embd": 32, "sm_n_layer": 2,
}  # fmt: skip
VDMS: dict[str, dict[str, Any]] = {
    "attention, scalar schedule": {"with_attention": True, "gamma_type": "learnable_scalar"},
    "no Fourier features, fixed schedule": {
        "with_fourier_features": False, "gamma_type": "fixed", "gamma_min": -10.0, "gamma_max": 6.0, "sm_n_layer": 1,
    },
}  # fmt: skip


def weight(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Drawn by the name: vectors near 1 where they scale and near 0 elsewhere, matrices of unit gain."""
    values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) > 1:
        return (values / np.sqrt(np.prod(shape) / max(shape[0], shape[-1]))).astype(np.float32)
    return (0.3 * values + name.endswith(("weight", "scale"))).astype(np.float32)


def normal(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(1).standard_normal(shape).astype(np.float32))


def assert_recorded(key: str, network: nn.Module, run: Callable[[Any], torch.Tensor]) -> None:
    """That a network with weights of its names gives the recorded output."""
    state = {name: torch.from_numpy(weight(name, tuple(value.shape))) for name, value in network.state_dict().items()}
    network.load_state_dict(state)
    with torch.inference_mode():
        parity.assert_near(run(network.eval()).numpy(), RECORDED[key])


@pytest.mark.parametrize("name", GENERATORS)
def test_a_generator_is_the_original_one(name: str) -> None:
    settings = ncsnpp.Settings.model_validate(GENERATOR | GENERATORS[name])
    x, t, z = normal(2, settings.num_channels, 8, 8), torch.tensor([3.0, 1.0]), normal(2, 6)
    assert_recorded(f"ddgan/{name}", ncsnpp.Generator(settings), lambda network: network(x, t, torch.zeros(2), z))


@pytest.mark.parametrize("name", DDIMS)
def test_a_ddim_network_is_the_original_one(name: str) -> None:
    network = UNet(ddim.Model.model_validate(DDIM | DDIMS[name]), 8)
    x, t = normal(2, 3, 8, 8), torch.tensor([5.0, 700.0])
    assert_recorded(f"ddim/{name}", network, lambda network: network(x, t, torch.zeros(2)))


@pytest.mark.parametrize("name", LATENTS)
def test_a_latent_network_is_the_original_one(name: str) -> None:
    params = UNetParams.model_validate(LATENT | LATENTS[name])
    network = latent_diffusion.build(params, labels=3 if params.use_spatial_transformer else 0)
    x, t, y = normal(2, 3, 8, 8), torch.tensor([3.0, 951.0]), torch.tensor([2, 0])
    assert_recorded(f"latent/{name}", network, lambda network: network(x, t, y))


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_is_the_original_one(name: str) -> None:
    network = Decoder(DecoderConfig.model_validate(DECODER | DECODERS[name]))
    assert_recorded(f"decoder/{name}", network, lambda network: network(normal(2, 3, 4, 4)))


@pytest.mark.parametrize("name", VDMS)
def test_a_variational_network_and_its_schedule_are_the_original_ones(tmp_path: Path, name: str) -> None:
    """The second row has a label, which is the original's `conditioning`."""
    settings = VDM | VDMS[name]
    (tmp_path / "checkpoint").write_bytes(msgpack.packb({"ema_params": flax_tree(settings)}))
    model = vdm.load(tmp_path / "checkpoint", Card(format="vdm", settings=settings))
    out = parity.output(model, normal(2, 3, 4, 4), [-9.0, 3.0], [0, 5])
    parity.assert_near(out, RECORDED[f"vdm/{name}"])
    np.testing.assert_allclose(model.schedule.gamma[[0, 250, 1000]], RECORDED[f"gamma/{name}"], rtol=1e-6)


def flax_tree(settings: dict[str, Any]) -> dict[str, Any]:
    """Weights drawn by flax's names, as flax nests and packs them."""
    network = vdm_unet.ScoreNetwork(vdm_unet.Settings.model_validate({"channels": 3} | settings))
    shapes = {"gamma.w": (1,), "gamma.b": (1,)} if settings["gamma_type"] == "learnable_scalar" else {}
    for name, value in network.state_dict().items():
        module, _, kind = name.rpartition(".")
        kind = "bias" if kind == "bias" else "scale" if "GroupNorm" in module else "kernel"
        backward = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[value.ndim]
        shapes[f"score_model.{module}.{kind}"] = tuple(value.permute(backward).shape)
    tree: dict[str, Any] = {}
    for path, shape in shapes.items():
        scope, _, rest = path.partition(".")
        module, _, kind = rest.rpartition(".")
        # flax's own names have dots, as in "down.block_0"; the importer joins with dots, so levels do not matter
        packed = msgpack.packb((shape, "float32", weight(path, shape).tobytes()))
        tree.setdefault(scope, {}).setdefault(module, {})[kind] = msgpack.ExtType(1, packed)
    tree |= {"gamma": tree["gamma"][""]} if "gamma" in tree else {}
    return tree
