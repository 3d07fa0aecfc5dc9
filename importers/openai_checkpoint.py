"""Imports the `.pt` of improved-diffusion, guided-diffusion and consistency models.

They have weights alone, so the flags that the weights do not show come by a card.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from importers import cards, published_schedules
from importers.cards import Card
from importers.formats import Format
from importers.imported import Continuous, Discrete, Imported
from importers.networks.openai_unet import Heads, Layout, UNet
from importers.openai_layout import find_layout
from importers.openai_settings import ConsistencyFlags, GaussianFlags, GuidedFlags, HeadFlags, NetworkFlags
from importers.problems import ImportProblem
from importers.reading import read_torch
from importers.weights import fill, unwrapped, weights

FLAGS: Mapping[Format, type[NetworkFlags]] = {
    Format.IMPROVED: GaussianFlags,
    Format.GUIDED: GuidedFlags,
    Format.CONSISTENCY: ConsistencyFlags,
}


def load(path: Path, card: Card) -> Imported:
    """The model in a `.pt` file, with what the card says of it. Raises ImportProblem."""
    flags = card.flags(FLAGS[card.format], path)
    state = unwrapped(weights(read_torch(path), path.name))
    layout = find_layout(state, path.name)
    compare(flags, layout, path.name)
    model = gaussian if isinstance(flags, GaussianFlags) else karras
    return model(card, flags, layout, state, path.name)


def compare(flags: NetworkFlags, layout: Layout, source: str) -> None:
    """Raises ImportProblem where a flag says something else than the weights do."""
    learned = layout.out_channels == 2 * layout.in_channels
    if not learned and layout.out_channels != layout.in_channels:
        raise ImportProblem(f"{source}: {layout.in_channels} channels become {layout.out_channels}: no image model")
    in_weights: dict[str, Any] = {
        "num_channels": layout.model_channels,
        "num_res_blocks": layout.blocks,
        "channel_mult": tuple(width / layout.model_channels for width in layout.channels),
        "class_cond": layout.classes > 0,
        "learn_sigma": learned,
        "use_scale_shift_norm": layout.scale_shift,
        "resblock_updown": layout.residual_resampling,
    }
    cards.compare(flags, in_weights, source, "the weights say")
    strides = {2**level for level, attends in enumerate(layout.attention) if attends}
    if flags.attention_resolutions is not None:
        chosen = {flags.image_size // resolution for resolution in flags.attention_resolutions}
        if chosen & {2**level for level in range(len(layout.attention))} != strides:
            raise ImportProblem(f"{source}: the card says another attention_resolutions than the weights do")


def network(flags: NetworkFlags, layout: Layout, state: Mapping[str, Tensor], source: str) -> UNet:
    """The U-Net with its weights."""
    width = flags.num_head_channels if isinstance(flags, HeadFlags) and flags.num_head_channels > 0 else None
    # Consistency models' attention, whose projections are two-dimensional, has one order whatever the flag.
    new_order = not layout.flat_attention or (isinstance(flags, HeadFlags) and flags.use_new_attention_order)
    up_count = flags.num_heads_upsample if flags.num_heads_upsample > 0 else flags.num_heads
    heads = Heads(flags.num_heads, up_count, width, "kinds first" if new_order else "heads first")
    unet = fill(lambda: UNet(layout, heads), state, source)
    assert isinstance(unet, UNet)
    return unet


def common(card: Card, flags: NetworkFlags, layout: Layout) -> dict[str, Any]:
    """What is the same in all three formats."""
    classes = card.names(layout.classes)
    if len(classes) != layout.classes:
        raise ImportProblem(f"the card names {len(classes)} classes, the weights have {layout.classes}")
    return {
        "format": card.format,
        "shape": (layout.in_channels, flags.image_size, flags.image_size),
        "classes": classes,
        "unconditional": layout.classes == 0,
        "clip": 1.0 if flags.clip_denoised else float("inf"),
        "facts": card.facts,
    }


def gaussian(card: Card, flags: Any, layout: Layout, state: Mapping[str, Tensor], source: str) -> Imported:
    """A model of T timesteps."""
    learned = layout.out_channels == 2 * layout.in_channels
    return Imported(
        network=network(flags, layout, state, source),
        prediction="x0" if flags.predict_xstart else "epsilon",
        schedule=gaussian_schedule(flags),
        sampler="ddim" if flags.use_ddim else "ddpm",
        settings={"respacing": flags.timestep_respacing},
        variance="learned_range" if learned else "fixed_small" if flags.sigma_small else "fixed_large",
        **common(card, flags, layout),
    )


def gaussian_schedule(flags: GaussianFlags) -> Discrete:
    """The flags' schedule; with `rescale_timesteps` the network's times go to 1000 whatever T is."""
    count = flags.diffusion_steps
    if flags.noise_schedule == "cosine":
        betas = published_schedules.from_signal(count, published_schedules.cosine_signal)
    else:
        betas = published_schedules.linear(count, 1000 / count * 1e-4, 1000 / count * 0.02)
    scale = 1000 / count if flags.rescale_timesteps else 1.0
    return published_schedules.discrete(betas, np.arange(count, dtype=np.float64) * scale)


def karras(card: Card, flags: Any, layout: Layout, state: Mapping[str, Tensor], source: str) -> Imported:
    """A model of noise levels: EDM's, or a consistency model."""
    consistent = flags.distillation or flags.training_mode.startswith("consistency")
    settings = flags.model_dump(include={"steps", "ts", "s_churn", "s_tmin", "s_tmax", "s_noise"})
    return Imported(
        network=network(flags, layout, state, source),
        prediction="F",
        schedule=Continuous(flags.sigma_min, flags.sigma_max, preconditioning(flags.sigma_min if consistent else 0.0)),
        sampler=flags.sampler or ("onestep" if consistent else "heun"),
        settings=settings,
        **common(card, flags, layout),
    )


def preconditioning(boundary: float) -> dict[str, Any]:
    """EDM's, with D(x, σ) = x at σ = `boundary` (Song et al. 2023, arXiv 2303.01469, appendix C); EDM itself has 0."""
    return {"kind": "edm", "sigma_data": 0.5, "boundary": boundary, "noise_gain": 250.0}
