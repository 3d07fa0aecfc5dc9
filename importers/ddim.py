"""Imports DDIM's checkpoints (ermongroup/ddim): a state dictionary, or a list of what its training keeps.

The file has the weights alone. The card has the original's configuration file, section by section.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field

from importers import cards, published_schedules
from importers.cards import Card
from importers.imported import Discrete, Imported, Vector
from importers.networks import ddpm_unet
from importers.problems import ImportProblem
from importers.reading import read_torch
from importers.weights import fill, unwrapped, weights

EMA = 4  # its place in the list: weights, optimizer, epoch, step, EMA weights


class Data(cards.Settings):
    """Of the images; what the other settings change cannot be undone by sampling."""

    image_size: int = Field(ge=1, le=4096)
    channels: int = Field(ge=1)
    rescaled: Literal[True] = True  # images are in [−1, 1]
    logit_transform: Literal[False] = False
    dataset: str = ""
    category: str = ""
    uniform_dequantization: bool = False  # in training only, as are the following
    gaussian_dequantization: bool = False
    random_flip: bool = False
    num_workers: int = 0


class Model(ddpm_unet.Settings):
    """Of the network."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["simple", "bayesian"] = "simple"
    ema: bool | None = None  # whether to take the EMA weights; None: if there are any
    var_type: Literal["fixedlarge", "fixedsmall"] = "fixedlarge"  # the original's samplers do not read it
    dropout: float = 0.0  # in training only, as the next one is
    ema_rate: float = 0.0


class Diffusion(cards.Settings):
    """Of the schedule."""

    beta_schedule: Literal["linear", "quad", "const", "jsd", "sigmoid"] = "linear"
    beta_start: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    beta_end: Annotated[float, Field(gt=0, lt=1)] = 0.02
    num_diffusion_timesteps: Annotated[int, Field(ge=1, le=100_000)] = 1000


class Flags(cards.Settings):
    """The configuration's sections."""

    data: Data
    model: Model
    diffusion: Diffusion = Diffusion()
    training: Any = None
    sampling: Any = None
    optim: Any = None


def load(path: Path, card: Card) -> Imported:
    """The model in a `.ckpt` or `.pth` file, with what the card says of it. Raises ImportProblem."""
    flags = card.flags(Flags, path)
    size, model = flags.data.image_size, flags.model
    if not flags.data.channels == model.in_channels == model.out_ch:
        raise ImportProblem(f"the card for {path.name}: channels, in_channels and out_ch are to be the same")
    state = unwrapped(weights(chosen(read_torch(path), model, path.name), path.name))
    if model.type == "bayesian":
        state.pop("logvar", None)  # which the original has and never reads
    return Imported(
        format=card.format,
        network=fill(lambda: ddpm_unet.UNet(model, size), state, path.name),
        shape=(model.out_ch, size, size),
        prediction="epsilon",
        schedule=schedule(flags.diffusion),
        sampler="ddim",
        settings={"spacing": "uniform"},
        variance="fixed_large",
        facts=card.facts,
    )


def chosen(content: object, model: Model, source: str) -> object:
    """The state dictionary to take. Raises ImportProblem if the card asks for EMA weights and there are none."""
    averaged = isinstance(content, Sequence) and len(content) > EMA and isinstance(content[EMA], Mapping)
    if not isinstance(content, Sequence):
        return content  # published files are of EMA weights
    if not content or (model.ema and not averaged):
        raise ImportProblem(f"{source}: a list of {len(content)} without EMA weights, which the card says are there")
    return content[EMA] if averaged and model.ema is not False else content[0]


def schedule(diffusion: Diffusion) -> Discrete:
    """T timesteps, in float32 as the original has them."""
    return published_schedules.single(betas_of(diffusion))


def betas_of(diffusion: Diffusion) -> Vector:
    """β, float64."""
    start, end, count = diffusion.beta_start, diffusion.beta_end, diffusion.num_diffusion_timesteps
    match diffusion.beta_schedule:
        case "linear":
            return published_schedules.linear(count, start, end)
        case "quad":
            return np.linspace(start**0.5, end**0.5, count) ** 2
        case "const":
            return np.full(count, end)
        case "jsd":
            return 1 / np.linspace(count, 1, count)
        case "sigmoid":
            return start + (end - start) / (1 + np.exp(-np.linspace(-6, 6, count)))
