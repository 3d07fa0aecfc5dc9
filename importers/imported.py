"""What an importer gives: a network, and everything that is known of how to sample with it.

A network here is the original one, unchanged: its `t` is what the original code hands to its network, and its output is
what that network gives. Rescaling of time, preconditioning and boundary conditions are numbers of the schedule.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from models.karras import preconditioning
from models.karras.preconditioning import Preconditioning

Vector = NDArray[np.float64]
Shape = tuple[int, int, int]  # (C, H, W)

# What the network's output means: ε; x0; v = α·ε − σ·x0 (arXiv 2202.00512); or F of D = c_skip·x + c_out·F, EDM's.
Prediction = Literal["epsilon", "x0", "v", "F"]


class Decoder(Protocol):
    """From a latent state to an image, both (n, C, H, W) float32."""

    def decode(self, x: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Discrete:
    """T training timesteps, x_t = √ᾱ_t·x0 + √(1 − ᾱ_t)·ε.

    `betas`, `alphas_cumprod` and `times` are (T,) float64. `times` holds what the network takes for timestep i, which
    is i itself in most formats.
    """

    betas: Vector
    alphas_cumprod: Vector
    times: Vector


@dataclass(frozen=True)
class Continuous:
    """Noise levels σ, with x = x0 + σ·ε.

    `sigma_min` and `sigma_max`: the network's own range. `numbers`: how `models.karras.preconditioning` computes what
    the network sees; its "levels" are the only σ that the network knows, falling.
    """

    sigma_min: float
    sigma_max: float
    numbers: Mapping[str, Any]

    @property
    def preconditioning(self) -> Preconditioning:
        return preconditioning.of(self.numbers)

    @property
    def levels(self) -> Vector | None:
        """None: any of the range."""
        levels = self.numbers.get("levels")
        return None if levels is None else np.asarray(levels, dtype=np.float64)


@dataclass(frozen=True)
class Imported:
    """A model as it was published.

    `network(x, t, y)`: x (n, *state_shape) float32, t (n,) float32, y (n,) int64 with `len(classes)` for "no class".
    Where `latent` > 0 a fourth argument is z (n, latent) float32. Where `self_condition`, a fourth one is x0 of the
    step before, shaped like x, zeros in the first step. It gives (n, C, H, W), or (n, 2·C, H, W) where
    `variance` is "learned" or "learned_range": the second half is the variance. Networks without classes ignore y.
    """

    format: str  # as `./run import` names it
    network: nn.Module
    shape: Shape  # of an image
    prediction: Prediction
    schedule: Any  # Discrete, Continuous, or a dataclass of the format's own
    sampler: str  # the format's own sampler
    settings: Mapping[str, Any] = field(default_factory=dict)  # of that sampler, which the file or its card fixes
    classes: tuple[str, ...] = ()
    unconditional: bool = True  # whether the network was trained with "no class" too
    variance: str = "none"  # "fixed_small", "fixed_large", "learned", "learned_range": of an ancestral step
    clip: float = float("inf")  # the largest magnitude of x0 while sampling
    latent: int = 0
    self_condition: bool = False
    decoder: Decoder | None = None
    latent_shape: Shape | None = None  # of what is denoised, where a decoder makes the image of it
    facts: Mapping[str, Any] = field(default_factory=dict)  # for people: training step, licence, ...

    @property
    def state_shape(self) -> Shape:
        """Of what is denoised."""
        return self.latent_shape or self.shape
