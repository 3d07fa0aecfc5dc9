"""DiT's networks beside diffusers' own of the same weights."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel
from torch import Tensor

from importers import dit, published_schedules
from importers.cards import Card
from importers.problems import ImportProblem
from tests.importers import parity

HEADS, WIDTH, SIZE, PATCH, CHANNELS, CLASSES = 4, 64, 8, 2, 4, 7
BLOCK = "transformer_blocks.0."


@pytest.fixture(scope="module")
def reference() -> DiTTransformer2DModel:
    return transformer()


def transformer() -> DiTTransformer2DModel:
    """A small one, with random weights."""
    torch.manual_seed(0)
    network = DiTTransformer2DModel(
        num_attention_heads=HEADS,
        attention_head_dim=WIDTH // HEADS,
        in_channels=CHANNELS,
        out_channels=2 * CHANNELS,
        num_layers=2,
        sample_size=SIZE,
        patch_size=PATCH,
        num_embeds_ada_norm=CLASSES,
    ).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    # diffusers repeats the embedders in each block, of which DiT has one.
    state = network.state_dict()
    for name in state:
        if ".norm1.emb." in name:
            state[name] = state[BLOCK + name.split(".", 2)[2]]
    network.load_state_dict(state)
    for block in network.transformer_blocks:
        # diffusers' frequencies end at 1/10,000; those of DiT's own `timestep_embedding` stop one short of it.
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    return network


def original(reference: DiTTransformer2DModel) -> dict[str, Tensor]:
    """The reference's weights by the names that DiT's own code gives them."""
    theirs = reference.state_dict()
    state = {
        "pos_embed": reference.pos_embed.pos_embed,
        "y_embedder.embedding_table.weight": theirs[f"{BLOCK}norm1.emb.class_embedder.embedding_table.weight"],
    }
    plain = {
        "x_embedder.proj": "pos_embed.proj",
        "t_embedder.mlp.0": f"{BLOCK}norm1.emb.timestep_embedder.linear_1",
        "t_embedder.mlp.2": f"{BLOCK}norm1.emb.timestep_embedder.linear_2",
        "final_layer.adaLN_modulation.1": "proj_out_1",
        "final_layer.linear": "proj_out_2",
    }
    for i in range(len(reference.transformer_blocks)):
        block, own = f"transformer_blocks.{i}.", f"blocks.{i}."
        plain |= {
            f"{own}adaLN_modulation.1": f"{block}norm1.linear",
            f"{own}attn.proj": f"{block}attn1.to_out.0",
            f"{own}mlp.fc1": f"{block}ff.net.0.proj",
            f"{own}mlp.fc2": f"{block}ff.net.2",
        }
        for kind in ("weight", "bias"):
            parts = [theirs[f"{block}attn1.to_{part}.{kind}"] for part in "qkv"]
            state[f"{own}attn.qkv.{kind}"] = torch.cat(parts)
    for name, their_name in plain.items():
        state |= {f"{name}.{kind}": theirs[f"{their_name}.{kind}"] for kind in ("weight", "bias")}
    return state


def card(**settings: Any) -> Card:
    return Card(format="dit", settings={"num_heads": HEADS} | settings)


def test_the_network_is_that_of_diffusers(reference: DiTTransformer2DModel, tmp_path: Path) -> None:
    torch.save(original(reference), tmp_path / "DiT.pt")
    model = dit.load(tmp_path / "DiT.pt", card())
    x, t, y = torch.randn(3, CHANNELS, SIZE, SIZE), torch.tensor([0, 3, 981]), torch.tensor([0, CLASSES, 5])
    with torch.inference_mode():
        expected = reference(x, t, y).sample.numpy()
    parity.assert_near(parity.output(model, x, t, y), expected)
    assert model.shape == (CHANNELS, SIZE, SIZE)
    assert (len(model.classes), model.unconditional, model.variance) == (CLASSES, True, "learned_range")


def test_a_training_checkpoint_gives_its_averaged_weights(reference: DiTTransformer2DModel, tmp_path: Path) -> None:
    averaged = original(reference)
    arguments = argparse.Namespace(model="DiT-XL/2", num_classes=CLASSES, data_path="/data")
    model = {name: torch.zeros_like(value) for name, value in averaged.items()}
    torch.save({"model": model, "ema": averaged, "opt": {}, "args": arguments}, tmp_path / "0050000.pt")
    network = dit.load(tmp_path / "0050000.pt", card()).network
    torch.testing.assert_close(network.state_dict(), averaged)


def test_a_network_without_a_label_for_no_class_is_known(reference: DiTTransformer2DModel, tmp_path: Path) -> None:
    torch.save(original(reference), tmp_path / "DiT.pt")
    model = dit.load(tmp_path / "DiT.pt", card(class_dropout_prob=0))
    assert (len(model.classes), model.unconditional) == (CLASSES + 1, False)


def test_the_autoencoder_of_the_card_decodes(reference: DiTTransformer2DModel, tmp_path: Path) -> None:
    torch.save(original(reference), tmp_path / "DiT.pt")
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32,) * 4,
        latent_channels=CHANNELS,
    ).eval()
    vae.save_pretrained(tmp_path / "vae")
    model = dit.load(tmp_path / "DiT.pt", card(vae="vae", image_size=8 * SIZE))
    latents = torch.randn(1, CHANNELS, SIZE, SIZE)
    assert model.decoder is not None
    with torch.inference_mode():
        parity.assert_near(model.decoder.decode(latents), vae.decode(latents / 0.18215).sample.numpy())
    assert (model.shape, model.state_shape) == ((3, 64, 64), (CHANNELS, SIZE, SIZE))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"num_heads": None}, "has to say num_heads"),
        ({"num_heads": 5}, "the width among the heads"),
        ({"num_classes": 3}, "3 classes, but 8 labels"),
        ({"depth": 28}, "depth = 28, the weights say 2"),
        ({"learn_sigma": False}, "learn_sigma = False"),
    ],
)
def test_a_card_that_the_weights_contradict_is_refused(
    reference: DiTTransformer2DModel, tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    torch.save(original(reference), tmp_path / "DiT.pt")
    with pytest.raises(ImportProblem, match=reason):
        dit.load(tmp_path / "DiT.pt", card(**settings))


def test_the_schedule_is_linear() -> None:
    """As `create_diffusion` of DiT's code has it."""
    np.testing.assert_allclose(published_schedules.linear(1000)[[0, -1]], [1e-4, 0.02])
