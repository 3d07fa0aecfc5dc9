"""The noise-prediction network of variational diffusion models (Kingma et al. 2021, arXiv 2107.00630, appendix B), and
their noise schedules. A flax parameter `a/b.c/kernel` is the tensor `a.b.c.weight` here."""

import math
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear, silu

from importers.networks.embeddings import TimeEmbedding

EXPONENTS = (6, 7)  # of the Fourier features
TIMESTEPS = 1000  # the γ from `gamma_min` to `gamma_max` are embedded as 0 to this

GammaType = Literal["fixed", "learnable_scalar", "learnable_nnet"]


class Settings(BaseModel):
    """What shapes the network and its schedule, of the original's `config.model`."""

    model_config = ConfigDict(frozen=True)

    channels: int = Field(ge=1)  # of an image
    with_fourier_features: bool
    with_attention: bool
    gamma_type: GammaType
    gamma_min: float
    gamma_max: float
    sm_n_embd: int = Field(ge=32)
    sm_n_layer: int = Field(ge=1)


def group_norm(channels: int) -> nn.GroupNorm:
    """32 groups."""
    return nn.GroupNorm(32, channels, eps=1e-6)


class PixelLinear(nn.Linear):
    """A linear map of the channels of each pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self.weight[:, :, None, None], self.bias)


class ResidualBlock(nn.Module):
    """Two convolutions of x beside x itself, and between them the condition (n, width)."""

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__()
        self.GroupNorm_0 = group_norm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.cond_proj = nn.Linear(width, outputs, bias=False)
        self.GroupNorm_1 = group_norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.nin_shortcut = PixelLinear(inputs, outputs) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        hidden = self.conv1(silu(self.GroupNorm_0(x))) + self.cond_proj(condition)[:, :, None, None]
        hidden = self.conv2(silu(self.GroupNorm_1(hidden)))
        result: Tensor = self.nin_shortcut(x) + hidden
        return result


class Attention(nn.Module):
    """Self-attention of one head over the pixels, beside a way past it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.GroupNorm_0 = group_norm(channels)
        self.q = PixelLinear(channels, channels)
        self.k = PixelLinear(channels, channels)
        self.v = PixelLinear(channels, channels)
        self.proj_out = PixelLinear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.GroupNorm_0(x)
        query, key, value = (part(hidden).flatten(2) for part in (self.q, self.k, self.v))
        weights = (query.transpose(1, 2) @ key / math.sqrt(x.shape[1])).softmax(dim=2)
        mixed = (value @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])
        result: Tensor = x + self.proj_out(mixed)
        return result


class ScoreNetwork(nn.Module):
    """ε̂(z_t, γ_t), without a change of size between its layers; the way up takes the outputs of the way down.

    The original appends a number to the embedding of the time, which is 0 when it samples (and which of 30
    augmentations an image had, where it was trained on augmented ones). Here it is the label y, 0 without classes.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        width, condition = settings.sm_n_embd, 4 * settings.sm_n_embd
        self.exponents = EXPONENTS if settings.with_fourier_features else ()
        self.time_embedding = TimeEmbedding(width)
        self.dense0 = nn.Linear(width + 1, condition)
        self.dense1 = nn.Linear(condition, condition)
        self.conv_in = nn.Conv2d(settings.channels * (1 + 2 * len(self.exponents)), width, 3, padding=1)
        self.down = self._layers(settings.sm_n_layer, width)
        middle = {"block_1": ResidualBlock(width, width, condition), "attn_1": Attention(width)}
        self.mid = nn.ModuleDict(middle | {"block_2": ResidualBlock(width, width, condition)})
        self.up = self._layers(settings.sm_n_layer + 1, 2 * width)
        self.GroupNorm_0 = group_norm(width)
        self.conv_out = nn.Conv2d(width, settings.channels, 3, padding=1)

    def _layers(self, count: int, inputs: int) -> nn.ModuleDict:
        """`count` blocks, and with attention as many of those."""
        width = self.settings.sm_n_embd
        layers: dict[str, nn.Module] = {}
        for i in range(count):
            layers[f"block_{i}"] = ResidualBlock(inputs, width, 4 * width)
            if self.settings.with_attention:
                layers[f"attn_{i}"] = Attention(width)
        return nn.ModuleDict(layers)

    def layer(self, layers: nn.ModuleDict, i: int, x: Tensor, condition: Tensor) -> Tensor:
        hidden: Tensor = layers[f"block_{i}"](x, condition)
        return layers[f"attn_{i}"](hidden) if self.settings.with_attention else hidden

    def forward(self, z: Tensor, gamma: Tensor, y: Tensor) -> Tensor:
        """z (n, C, H, W), γ (n,) float32, y (n,) int64 → predicted noise, shaped like z."""
        settings = self.settings
        time = (gamma - settings.gamma_min) / (settings.gamma_max - settings.gamma_min) * TIMESTEPS
        condition = torch.cat([self.time_embedding(time), y.float()[:, None]], dim=1)
        condition = silu(self.dense1(silu(self.dense0(condition))))
        skipped = [self.conv_in(self._features(z))]
        for i in range(settings.sm_n_layer):
            skipped.append(self.layer(self.down, i, skipped[-1], condition))
        hidden = self.mid["block_1"](skipped[-1], condition)
        hidden = self.mid["block_2"](self.mid["attn_1"](hidden), condition)
        for i in range(settings.sm_n_layer + 1):
            hidden = self.layer(self.up, i, torch.cat([hidden, skipped.pop()], dim=1), condition)
        result: Tensor = z + self.conv_out(silu(self.GroupNorm_0(hidden)))
        return result

    def _features(self, z: Tensor) -> Tensor:
        """z, and sines and cosines of 2^k·2π·z, a channel's next to each other (section 4.5 of the paper)."""
        if not self.exponents:
            return z
        angles = torch.stack([2**k * 2 * math.pi * z for k in self.exponents], dim=2).flatten(1, 2)
        return torch.cat([z, angles.sin(), angles.cos()], dim=1)


class FixedSchedule(nn.Module):
    """γ(t), linear between the two ends of the settings."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.low, self.high = settings.gamma_min, settings.gamma_max

    def forward(self, t: Tensor) -> Tensor:
        """(n,) in [0, 1] → (n,), as do the others."""
        return self.low + (self.high - self.low) * t


class ScalarSchedule(nn.Module):
    """γ(t) = b + |w|·t."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))
        self.b = nn.Parameter(torch.zeros(1))

    def forward(self, t: Tensor) -> Tensor:
        return self.b + self.w.abs() * t


class NetworkSchedule(nn.Module):
    """γ(t) = l1(t) + l3(tanh-like l2(2t − 1))/1024: rising, since all weights are taken positive (appendix H)."""

    FEATURES = 1024

    def __init__(self) -> None:
        super().__init__()
        self.l1 = nn.Linear(1, 1)
        self.l2 = nn.Linear(1, self.FEATURES)
        self.l3 = nn.Linear(self.FEATURES, 1, bias=False)

    def forward(self, t: Tensor) -> Tensor:
        t = t[:, None]
        bend = 2 * torch.sigmoid(linear(2 * (t - 0.5), self.l2.weight.abs(), self.l2.bias)) - 1
        rising = linear(t, self.l1.weight.abs(), self.l1.bias)
        return (rising + linear(bend, self.l3.weight.abs()) / self.FEATURES)[:, 0]
