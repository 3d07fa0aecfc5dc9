"""The layers of denoising-diffusion-pytorch's U-Net, of its versions since 0.28.

Modules have the names of the published state dictionaries, so that those load as they are.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, normalize, pixel_unshuffle


@dataclass(frozen=True)
class Era:
    """What changed between versions and is not seen in the weights.

    `attention_norm`: before version 1.7 a LayerNorm. `standardize`: blocks' convolutions are standardized by weight
    (arXiv 1903.10520), with a small number added to the variance, or the variance at least that, or not at all.
    `spread_values`: linear attention divides the values by the number of pixels.
    """

    attention_norm: Literal["layer", "rms"] = "rms"
    standardize: Literal["added", "least", "no"] = "no"
    spread_values: bool = False


class LayerNorm(nn.Module):
    """(n, C, H, W) normalised over channels and scaled by g."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=1, unbiased=False, keepdim=True)
        return (x - mean) * (variance + 1e-5).rsqrt() * self.g


class RMSNorm(nn.Module):
    """(n, C, H, W) divided by the root of the channels' mean square, and scaled by g."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = channels**0.5
        self.g = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return normalize(x, dim=1) * self.g * self.scale


class SinusoidalEmbedding(nn.Module):
    """t (n,) → (n, width): sines, then cosines, at frequencies that fall to 1/theta."""

    def __init__(self, width: int, theta: float) -> None:
        super().__init__()
        half = width // 2
        exponents = torch.arange(half, device="cpu") * -(math.log(theta) / (half - 1))
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.exp(exponents), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class LearnedEmbedding(nn.Module):
    """t (n,) → (n, width + 1): t itself, then sines and cosines at frequencies that are learned, or random."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.empty(width // 2))

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None] * self.weights * 2 * math.pi
        return torch.cat([t[:, None], angles.sin(), angles.cos()], dim=1)


class Convolution(nn.Conv2d):
    """A 3×3 convolution whose weights are standardized as the era has it."""

    def __init__(self, inputs: int, outputs: int, era: Era) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        self.era = era

    def forward(self, x: Tensor) -> Tensor:
        if self.era.standardize == "no":
            return super().forward(x)
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), unbiased=False, keepdim=True)
        steady = variance + 1e-5 if self.era.standardize == "added" else variance.clamp(min=1e-5)
        return conv2d(x, (self.weight - mean) * steady.rsqrt(), self.bias, padding=1)


class Block(nn.Module):
    """Convolution, norm, an optional scale and shift (n, 2·C, 1, 1), SiLU. Without `groups` the norm is an RMSNorm."""

    def __init__(self, inputs: int, outputs: int, groups: int | None, era: Era) -> None:
        super().__init__()
        self.proj = Convolution(inputs, outputs, era)
        self.norm = nn.GroupNorm(groups, outputs) if groups else RMSNorm(outputs)
        self.act = nn.SiLU()

    def forward(self, x: Tensor, scale_shift: Tensor | None = None) -> Tensor:
        x = self.norm(self.proj(x))
        if scale_shift is not None:
            scale, shift = scale_shift.chunk(2, dim=1)
            x = x * (scale + 1) + shift
        activated: Tensor = self.act(x)
        return activated


class ResnetBlock(nn.Module):
    """x (n, C, H, W), embedding (n, E) → (n, D, H, W)."""

    def __init__(self, inputs: int, outputs: int, embedding: int, groups: int | None, era: Era) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * outputs))
        self.block1 = Block(inputs, outputs, groups, era)
        self.block2 = Block(outputs, outputs, groups, era)
        self.res_conv = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.block2(self.block1(x, self.mlp(embedding)[:, :, None, None]))
        return h + self.res_conv(x)


class Downsample(nn.Sequential):
    """Halves height and width: 2×2 pixels become channels, of which a convolution takes a weighted sum."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(nn.Identity(), nn.Conv2d(4 * inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        halved: Tensor = self[1](pixel_unshuffle(x, 2))
        return halved


class Upsample(nn.Sequential):
    """Doubles height and width by nearest neighbours, with a convolution after it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(nn.Identity(), nn.Conv2d(inputs, outputs, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        doubled: Tensor = self[1](interpolate(x, scale_factor=2, mode="nearest"))
        return doubled
