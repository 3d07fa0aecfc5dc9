"""Imports latent diffusion's `.ckpt` (CompVis/latent-diffusion): the U-Net and its autoencoder, saved by Lightning.

The card has `model.params` of the original's configuration.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from importers.cards import Card
from importers.imported import Discrete, Imported
from importers.latent_settings import ClassEmbedderConfig, Flags, UNetParams
from importers.networks.autoencoder import FirstStage
from importers.networks.latent_unet import LatentLayout, LatentUNet
from importers.networks.openai_unet import Heads, Layout, UNet
from importers.problems import ImportProblem
from importers.reading import read_torch
from importers.weights import fill, weights

UNET, FIRST_STAGE, EMBEDDING = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.embedding.weight"
DECODING = ("quantize.", "post_quant_conv.", "decoder.")  # of the first stage
# What else is there: the encoder and what trained it, and what follows from the β.
UNUSED = tuple(f"{FIRST_STAGE}{part}" for part in ("encoder.", "quant_conv.", "loss.", "model_ema.", "colorize"))
SCHEDULE = (
    "betas",
    "alphas_cumprod",
    "sqrt_",
    "log_one_minus_alphas_cumprod",
    "posterior_",
    "lvlb_weights",
    "cond_ids",
)
OTHERS = ("scale_factor", "logvar", "model_ema.decay", "model_ema.num_updates")


def load(path: Path, card: Card) -> Imported:
    """The model in a `.ckpt`, with what the card says of it. Raises ImportProblem."""
    flags = card.flags(Flags, path)
    content = read_torch(path)
    state = weights(content.get("state_dict", content) if isinstance(content, Mapping) else content, path.name)
    unet = {name.removeprefix(UNET): value for name, value in state.items() if name.startswith(UNET)}
    check_names(state, unet, path.name)
    unet = averaged(unet, state, flags, path.name)
    labels = label_count(flags, state, path.name)
    if labels:
        unet["embedding.weight"] = state[EMBEDDING]
    classes, unconditional = named_classes(card, flags, labels)
    first_stage = decoder(flags, state, path.name)
    size = flags.image_size
    side = size * 2 ** (len(first_stage.decoder.settings.ch_mult) - 1)
    return Imported(
        format=card.format,
        network=fill(lambda: build(flags.unet_config.params, labels), unet, path.name),
        shape=(first_stage.decoder.settings.out_ch, side, side),
        latent_shape=(flags.channels, size, size),
        prediction="epsilon" if flags.parameterization == "eps" else "x0",
        schedule=schedule(state, flags, path.name),
        sampler="ddim",
        settings={"spacing": "uniform", "offset": 1},
        classes=classes,
        unconditional=unconditional,
        variance="fixed_small",
        decoder=first_stage,
        facts=card.facts,
    )


def ema_name(name: str) -> str:
    """Of a U-Net's weight among the EMA ones: without its dots."""
    return "model_ema." + f"diffusion_model.{name}".replace(".", "")


def check_names(state: Mapping[str, Tensor], unet: Mapping[str, Tensor], source: str) -> None:
    """Raises ImportProblem if there is a weight that belongs to no part of such a model."""
    used = (UNET, *(f"{FIRST_STAGE}{part}" for part in DECODING))
    rest = {name for name in state if not name.startswith((*used, *UNUSED, *SCHEDULE))}
    rest -= {EMBEDDING, *OTHERS, *map(ema_name, unet)}
    if rest:
        raise ImportProblem(f"{source}: {len(rest)} weights of no known part, first {min(rest)}")


def averaged(unet: dict[str, Tensor], state: Mapping[str, Tensor], flags: Flags, source: str) -> dict[str, Tensor]:
    """The U-Net's weights, or the EMA ones."""
    stored = {name: ema_name(name) for name in unet}
    kept = any(name in state for name in stored.values())
    if flags.use_ema and not kept:
        raise ImportProblem(f"{source}: no EMA weights, which the card says are there")
    if flags.use_ema is False or not kept:
        return unet
    lacking = [name for name in stored.values() if name not in state]
    if lacking:
        raise ImportProblem(f"{source}: {len(lacking)} of the EMA weights are missing, first {min(lacking)}")
    return {name: state[ema] for name, ema in stored.items()}


def label_count(flags: Flags, state: Mapping[str, Tensor], source: str) -> int:
    """Rows of the class embedding; 0 without classes."""
    transforms, config = flags.unet_config.params.use_spatial_transformer, flags.cond_stage_config
    if transforms != isinstance(config, ClassEmbedderConfig):
        raise ImportProblem(f"{source}: only a network of classes has spatial transformers, and it has them")
    if not isinstance(config, ClassEmbedderConfig):
        return 0
    if EMBEDDING not in state or len(state[EMBEDDING]) != config.params.n_classes:
        raise ImportProblem(f"{source}: {EMBEDDING} is missing or has not {config.params.n_classes} rows")
    return config.params.n_classes


def named_classes(card: Card, flags: Flags, labels: int) -> tuple[tuple[str, ...], bool]:
    """The classes' names, and whether the network knows "no class": by `null_label`, or as one name is left out."""
    if flags.null_label not in (None, labels - 1):
        raise ImportProblem(f"the card's null_label is not {labels - 1}, the last label")
    has_null = labels > 0 and (flags.null_label is not None or len(card.classes) == labels - 1)
    names = card.names(labels - has_null)
    if len(names) != labels - has_null:
        raise ImportProblem(f"the card names {len(names)} classes, of {labels - has_null}")
    return names, has_null or labels == 0


def build(params: UNetParams, labels: int) -> UNet:
    """The U-Net without weights."""
    heads, layout = Heads(params.num_heads, params.num_heads), architecture(params)
    if params.num_head_channels != -1:
        heads = Heads(width=params.num_head_channels)
    elif params.legacy and params.num_heads_upsample != -1:
        heads = Heads(params.num_heads, params.num_heads_upsample)
    if not labels:
        new_order = params.use_new_attention_order
        return UNet(Layout(**layout), replace(heads, order="kinds first" if new_order else "heads first"))
    head_width = None if params.legacy or heads.width is None else heads.width
    return LatentUNet(
        LatentLayout(
            **layout,
            labels=labels,
            context_width=params.context_dim or 0,
            transformer_depth=params.transformer_depth,
            head_width=head_width,
        ),
        heads,
    )


def architecture(params: UNetParams) -> dict[str, Any]:
    """What both U-Nets share."""
    return {
        "in_channels": params.in_channels,
        "out_channels": params.out_channels,
        "model_channels": params.model_channels,
        "channels": tuple(multiple * params.model_channels for multiple in params.channel_mult),
        "blocks": params.num_res_blocks,
        "attention": tuple(2**level in params.attention_resolutions for level in range(len(params.channel_mult))),
        "scale_shift": params.use_scale_shift_norm,
        "residual_resampling": params.resblock_updown,
        "convolved_resampling": params.conv_resample,
    }


def decoder(flags: Flags, state: Mapping[str, Tensor], source: str) -> FirstStage:
    """The way from latents to images."""
    params, kind = flags.first_stage_config.params, flags.first_stage_config.target.rpartition(".")[2]
    if (kind == "AutoencoderKL") != (params.n_embed is None):
        raise ImportProblem(f"{source}: n_embed is for a VQ first stage, not for {kind}")
    own = {name.removeprefix(FIRST_STAGE): value for name, value in state.items() if name.startswith(FIRST_STAGE)}
    own = {name: value for name, value in own.items() if name.startswith(DECODING)}
    codes = params.n_embed if kind == "VQModelInterface" else None
    if codes is None:
        own.pop("quantize.embedding.weight", None)
    scale = scale_factor(flags, state, source)
    stage = fill(lambda: FirstStage(params.ddconfig, params.embed_dim, codes, scale), own, f"{source}: first stage")
    assert isinstance(stage, FirstStage)
    return stage


def scale_factor(flags: Flags, state: Mapping[str, Tensor], source: str) -> float:
    """Of the latents: the card's, or the file's where it has one."""
    stored = float(state["scale_factor"]) if "scale_factor" in state else None
    if flags.scale_by_std and stored is None:
        raise ImportProblem(f"{source}: no scale_factor, which scale_by_std says is there")
    if stored and flags.scale_factor and not np.isclose(stored, flags.scale_factor, rtol=1e-4):
        raise ImportProblem(f"{source}: its scale_factor is {stored}, the card's {flags.scale_factor}")
    return stored or flags.scale_factor or 1.0


def schedule(state: Mapping[str, Tensor], flags: Flags, source: str) -> Discrete:
    """That of the file, in float32 as the original has it."""
    betas, alphas_cumprod = (
        state[name].double().numpy() if name in state else np.empty(0) for name in ("betas", "alphas_cumprod")
    )
    if not betas.shape == alphas_cumprod.shape == (flags.timesteps,):
        raise ImportProblem(f"{source}: betas and alphas_cumprod are missing, or not of {flags.timesteps} timesteps")
    return Discrete(betas, alphas_cumprod, np.arange(flags.timesteps, dtype=np.float64))
