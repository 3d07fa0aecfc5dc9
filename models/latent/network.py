"""An autoencoder, and the noise-prediction network of its latents."""

from typing import Any

import torch
from torch import Tensor, nn

from models.ddim import network as ddim

REDUCTION = 4  # of height and width, by the encoder
GROUPS = 8  # of a group norm


class Network(ddim.Network):
    """DDIM's ε̂(z_t, t, y) on normalised latents z, with the way there, `encode`, and back, `decode`."""

    def __init__(
        self,
        *,
        shape: tuple[int, int, int],
        classes: int,
        schedule: dict[str, Any],
        channels: list[int],
        state_shape: tuple[int, int, int],
        width: int,
    ) -> None:
        """`shape` and `state_shape` are (C, H, W) of an image and of its latent; `channels` are those of the U-Net,
        `width` that of the autoencoder."""
        if any(side != REDUCTION * reduced for side, reduced in zip(shape[1:], state_shape[1:], strict=True)):
            raise ValueError(f"a latent's sides are 1/{REDUCTION} of an image's: not {state_shape} for {shape}")
        super().__init__(shape=state_shape, classes=classes, schedule=schedule, channels=channels, fold=1)
        self.encoder = Encoder(shape[0], width, state_shape[0])
        self.decoder = Decoder(state_shape[0], width, shape[0])
        # Of the encoder's outputs over the data: mean and standard deviation a channel, and then the largest |value|.
        self.mean: Tensor
        self.deviation: Tensor
        self.bound: Tensor
        self.register_buffer("mean", torch.zeros(state_shape[0], 1, 1))
        self.register_buffer("deviation", torch.ones(state_shape[0], 1, 1))
        self.register_buffer("bound", torch.ones(()))

    def encode(self, x: Tensor) -> Tensor:
        """Images (n, C, H, W) in [−1, 1] → normalised latents (n, *state_shape)."""
        latents: Tensor = (self.encoder(x) - self.mean) / self.deviation
        return latents

    def decode(self, z: Tensor) -> Tensor:
        """Normalised latents (n, *state_shape) → images (n, C, H, W) in [−1, 1]."""
        images: Tensor = self.decoder(z * self.deviation + self.mean)
        return images


class Encoder(nn.Sequential):
    """e(x): images (n, inputs, 4h, 4w) → (n, outputs, h, w)."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__(
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * inputs, width, 3, padding=1),
            Residual(width),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            Residual(2 * width),
            Residual(2 * width),
            nn.GroupNorm(GROUPS, 2 * width),
            nn.SiLU(),
            nn.Conv2d(2 * width, outputs, 3, padding=1),
        )


class Decoder(nn.Sequential):
    """g(z): (n, inputs, h, w) → images (n, outputs, 4h, 4w) in [−1, 1]."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, 2 * width, 3, padding=1),
            Residual(2 * width),
            Residual(2 * width),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),
            Residual(width),
            nn.GroupNorm(GROUPS, width),
            nn.SiLU(),
            nn.Conv2d(width, 4 * outputs, 3, padding=1),
            nn.PixelShuffle(2),
            nn.Tanh(),
        )


class Residual(nn.Module):
    """x plus two convolutions of it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.GroupNorm(GROUPS, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(GROUPS, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.inner(x)
        return result
