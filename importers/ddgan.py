"""Imports DDGAN's `netG_N.pth`: weights alone, so the arguments of its command line come by card."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydantic import ConfigDict, Field

from importers import published_schedules
from importers.cards import Card
from importers.imported import Discrete, Imported, Vector
from importers.networks.ncsnpp import Generator, Settings
from importers.problems import ImportProblem
from importers.reading import read_torch
from importers.weights import fill, unwrapped, weights

START = 1e-3  # the diffusion's time goes from here to 1


class Flags(Settings):
    """The generator's arguments, and the schedule's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_timesteps: int = Field(4, ge=1, le=1000)
    use_geometric: bool = False
    beta_min: float = Field(0.1, gt=0)
    beta_max: float = Field(20.0, gt=0)
    dropout: float = 0.0  # in training only, and the original ignores the next one
    t_emb_dim: int = 256
    fourier_scale: float = 16.0  # of an embedding that cannot be imported
    dataset: str = ""


def load(path: Path, card: Card) -> Imported:
    """The model in a `netG_N.pth`, with what the card says of it. Raises ImportProblem."""
    flags = card.flags(Flags, path)
    content = read_torch(path)
    if isinstance(content, Mapping) and "netG_dict" in content:
        raise ImportProblem(f"{path.name}: what a training goes on from; its averaged weights are in a netG_N.pth")
    state = unwrapped(weights(content, path.name))
    return Imported(
        format=card.format,
        network=fill(lambda: Generator(flags), state, path.name),
        shape=(flags.num_channels, flags.image_size, flags.image_size),
        prediction="x0",
        schedule=schedule(flags),
        sampler="posterior",
        settings={"steps": flags.num_timesteps},
        variance="fixed_small",
        latent=flags.nz,
        facts=card.facts,
    )


def schedule(flags: Flags) -> Discrete:
    """T large steps of a continuous diffusion (Xiao et al. 2022, arXiv 2112.07804, appendix C)."""
    signal = signal_power(START + (1 - START) * np.arange(flags.num_timesteps + 1) / flags.num_timesteps, flags)
    # The original goes on in float32, in which 1 − β of the last step is off by 1e-4.
    return published_schedules.single(1 - signal[1:] / signal[:-1])


def signal_power(t: Vector, flags: Flags) -> Vector:
    """ᾱ(t): of β(t) rising from beta_min to beta_max, or of a variance 1 − ᾱ that rises so geometrically."""
    if flags.use_geometric:
        return 1 - flags.beta_min * (flags.beta_max / flags.beta_min) ** t
    return np.exp(-0.5 * t**2 * (flags.beta_max - flags.beta_min) - t * flags.beta_min)
