"""An autoencoder, and the noise-prediction network of its latents."""

from typing import Any

import torch
from diffusers.models.embeddings import Timesteps
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from models.ddim.network import NoisePredictor
from models.unet import check_size

REDUCTION = 4  # of height and width, by the encoder
GROUPS = 8  # of a group norm
PATCH = 2  # a token is PATCH × PATCH positions of a latent
MODULATIONS = 6  # of a block: scale, shift and gate of each of its two branches


class Network(NoisePredictor):
    """DDIM's ε̂(z_t, t, y) on normalised latents z; `encode` and `decode` convert images to latents and back."""

    def __init__(
        self,
        *,
        shape: tuple[int, int, int],
        classes: int,
        schedule: dict[str, Any],
        state_shape: tuple[int, int, int],
        width: int,
        tokens_width: int,
        blocks: int,
    ) -> None:
        """`shape` and `state_shape` are (C, H, W) of an image and of its latent.

        `width` is the autoencoder's; `tokens_width` and `blocks` are those of the mixer that predicts the noise.
        """
        check_size(shape[1], REDUCTION * PATCH)
        if any(side != REDUCTION * reduced for side, reduced in zip(shape[1:], state_shape[1:], strict=True)):
            raise ValueError(f"a latent's sides are 1/{REDUCTION} of an image's: not {state_shape} for {shape}")
        super().__init__(schedule)
        self.mixer = Mixer(state_shape, classes, tokens_width, blocks)
        self.encoder = Encoder(shape[0], width, state_shape[0])
        self.decoder = Decoder(state_shape[0], width, shape[0])
        # Of the encoder's outputs over the data: mean and standard deviation a channel, and then the largest |value|.
        self.mean: Tensor
        self.deviation: Tensor
        self.bound: Tensor
        self.register_buffer("mean", torch.zeros(state_shape[0], 1, 1))
        self.register_buffer("deviation", torch.ones(state_shape[0], 1, 1))
        self.register_buffer("bound", torch.ones(()))

    def predict(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        result: Tensor = self.mixer(x, t, y)
        return result

    def encode(self, x: Tensor) -> Tensor:
        """Images (n, C, H, W) in [−1, 1] → normalised latents (n, *state_shape)."""
        latents: Tensor = (self.encoder(x) - self.mean) / self.deviation
        return latents

    def decode(self, z: Tensor) -> Tensor:
        """Normalised latents (n, *state_shape) → images (n, C, H, W) in [−1, 1]."""
        images: Tensor = self.decoder(z * self.deviation + self.mean)
        return images


class Mixer(nn.Module):
    """F(z, t, y): an MLP-Mixer (Tolstikhin et al. 2021, arXiv 2105.01601) on PATCH × PATCH tokens of a latent.

    Time and class modulate each block, whose gates start at 0 (adaLN-Zero of Peebles & Xie 2023, arXiv 2212.09748,
    section 3.2). On small latents a U-Net is slowed down by its many small kernels; a mixer has few.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, width: int, blocks: int) -> None:
        super().__init__()
        depth, height, columns = shape
        self.grid = height // PATCH, columns // PATCH
        tokens = self.grid[0] * self.grid[1]
        self.timesteps = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(classes + 1, width)
        self.first = nn.Linear(depth * PATCH**2, width)
        self.position = nn.Parameter(torch.randn(tokens, width) * 0.02)
        self.blocks = nn.ModuleList(MixerBlock(tokens, width) for _ in range(blocks))
        self.modulation = nn.Linear(width, blocks * MODULATIONS * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, depth * PATCH**2)

    def forward(self, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """z (n, C, H, W), t (n,) timesteps, y (n,) int64 labels → shaped like z."""
        condition = nn.functional.silu(self.time(self.timesteps(t)) + self.label(y))
        modulations = self.modulation(condition).unflatten(1, (len(self.blocks) * MODULATIONS, -1)).split(1, dim=1)
        hidden = self.first(pixel_unshuffle(z, PATCH).flatten(2).transpose(1, 2)) + self.position
        for i, block in enumerate(self.blocks):
            hidden = block(hidden, *modulations[i * MODULATIONS :][:MODULATIONS])
        return pixel_shuffle(self.last(self.norm(hidden)).transpose(1, 2).unflatten(2, self.grid), PATCH)


class MixerBlock(nn.Module):
    """Mixes the tokens in each channel, then the channels in each token, both with a residual connection."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.tokens = nn.Sequential(nn.Linear(tokens, 4 * tokens), nn.GELU(), nn.Linear(4 * tokens, tokens))
        self.channels = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(
        self,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        gate: Tensor,
        scale_channels: Tensor,
        shift_channels: Tensor,
        gate_channels: Tensor,
    ) -> Tensor:
        """x (n, tokens, width); the others (n, 1, width)."""
        mixed = self.tokens((self.norm(x) * (1 + scale) + shift).transpose(1, 2)).transpose(1, 2)
        x = x + gate * mixed
        result: Tensor = x + gate_channels * self.channels(self.norm(x) * (1 + scale_channels) + shift_channels)
        return result


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
