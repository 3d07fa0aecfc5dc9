"""Imports DiT's `.pt`: published weights alone, or what its training script saves.

Its architecture is in the weights but for the number of heads. The autoencoder is another file, which the card names.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field
from torch import Tensor

from importers import cards, diffusers_folder, published_schedules
from importers.cards import Card
from importers.imported import Imported, Shape
from importers.networks.diffusers_networks import Decoder
from importers.networks.diffusion_transformer import Settings, Transformer
from importers.pickles import Inert
from importers.problems import ImportProblem
from importers.reading import read_torch
from importers.weights import fill, size, weights

HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}  # of DiT-S, B, L and XL, by the width
LATENT_SCALE = 0.18215  # fixed in the original's scripts
GUIDED_CHANNELS = 3  # the original guides these alone, whatever there are


class Flags(cards.Settings):
    """Arguments of the original's scripts and network. None: it is read from the file, and compared with it if set."""

    model: str = ""  # "DiT-XL/2", …: its width and depth are in the weights
    num_heads: int | None = Field(None, ge=1)
    num_classes: int | None = Field(None, ge=1)
    class_dropout_prob: float = Field(0.1, ge=0, le=1)  # 0: there is no label for "no class"
    input_size: int | None = None
    patch_size: int | None = None
    in_channels: int | None = None
    hidden_size: int | None = None
    depth: int | None = None
    mlp_ratio: float | None = None
    learn_sigma: bool | None = None
    image_size: int | None = None
    vae: str = ""  # a folder of diffusers' AutoencoderKL, seen from the file's own; without it latents are all there is
    num_sampling_steps: int = Field(250, ge=1, le=1000)
    cfg_scale: float = 4.0


def load(path: Path, card: Card) -> Imported:
    """The model in a `.pt` file, with what the card says of it. Raises ImportProblem."""
    flags = card.flags(Flags, path)
    state, arguments = parts(read_torch(path), path.name)
    settings = architecture(state, flags.num_heads, path.name)
    compare(flags, settings, path.name)
    classes = flags.num_classes or arguments.get("num_classes") or settings.labels - (flags.class_dropout_prob > 0)
    if settings.labels - classes not in (0, 1):
        raise ImportProblem(f"{path.name}: {classes} classes, but {settings.labels} labels in the weights")
    names = card.names(classes)
    if len(names) != classes:
        raise ImportProblem(f"the card for {path.name} names {len(names)} classes, of {classes}")
    latent = settings.in_channels, settings.input_size, settings.input_size
    autoencoder = diffusers_folder.read_module(path.parent / flags.vae) if flags.vae else None
    return Imported(
        format=card.format,
        network=fill(lambda: Transformer(settings), state, path.name),
        shape=diffusers_folder.image_shape(latent, autoencoder),
        latent_shape=latent if autoencoder else None,
        decoder=decoder_of(autoencoder, latent, path.name) if autoencoder else None,
        prediction="epsilon",
        schedule=published_schedules.discrete(published_schedules.linear(1000)),
        sampler="ddpm",
        settings={"respacing": str(flags.num_sampling_steps), "guided_channels": GUIDED_CHANNELS},
        classes=names,
        unconditional=settings.labels > classes,
        variance="learned_range" if settings.out_channels > settings.in_channels else "fixed_large",
        facts={**card.facts, "guidance": flags.cfg_scale},
    )


def parts(content: object, source: str) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """The weights, averaged ones where there are both, and the arguments of the training."""
    if not isinstance(content, Mapping) or "ema" not in content:
        return weights(content, source), {}
    arguments = content.get("args")
    state = arguments.state if isinstance(arguments, Inert) else None
    return weights(content["ema"], source), state if isinstance(state, dict) else {}


def architecture(state: Mapping[str, Tensor], heads: int | None, source: str) -> Settings:
    """What the weights show. Raises ImportProblem if they are of another network, or of a width without known heads."""
    width = size(state, "x_embedder.proj.weight", 0, source)
    patch = size(state, "x_embedder.proj.weight", 3, source)
    outputs = size(state, "final_layer.linear.weight", 0, source)
    heads = heads or HEADS.get(width)
    if heads is None:
        raise ImportProblem(f"{source}: the card has to say num_heads of a network {width} wide")
    return Settings(
        input_size=math.isqrt(size(state, "pos_embed", 1, source)) * patch,
        patch_size=patch,
        in_channels=size(state, "x_embedder.proj.weight", 1, source),
        out_channels=max(outputs // patch**2, 1),
        hidden_size=width,
        depth=sum(name.endswith(".attn.qkv.weight") for name in state) or 1,
        num_heads=heads,
        mlp_width=size(state, "blocks.0.mlp.fc1.weight", 0, source),
        labels=size(state, "y_embedder.embedding_table.weight", 0, source),
    )


def decoder_of(autoencoder: Any, latent: Shape, source: str) -> Decoder:
    """The way from latents, of the scale that DiT's scripts have, to images."""
    if type(autoencoder).__name__ != "AutoencoderKL" or autoencoder.config.latent_channels != latent[0]:
        raise ImportProblem(f"{source}: the card's vae is no AutoencoderKL of latents of {latent[0]} channels")
    decoder = Decoder(autoencoder)
    decoder.scale = LATENT_SCALE
    return decoder


def compare(flags: Flags, settings: Settings, source: str) -> None:
    """Raises ImportProblem where the card says something else than the weights do."""
    in_weights = settings.model_dump() | {
        "mlp_ratio": settings.mlp_width / settings.hidden_size,
        "learn_sigma": settings.out_channels > settings.in_channels,
        "image_size": settings.input_size * 8,
    }
    cards.compare(flags, in_weights, source, "the weights say")
