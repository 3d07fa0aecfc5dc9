"""The layers of the U-Net of improved-diffusion, guided-diffusion and consistency models.

Modules have the names of the published state dictionaries, so that those load as they are.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

# How the 3·H·c channels of queries, keys and values lie: (H, 3, c) or (3, H, c).
AttentionOrder = Literal["heads first", "kinds first"]
Resampling = Literal["up", "down"]


def resample(x: Tensor, how: Resampling | None) -> Tensor:
    """Doubles or halves height and width, by nearest neighbours and by means."""
    if how == "up":
        return interpolate(x, scale_factor=2, mode="nearest")
    return avg_pool2d(x, 2) if how == "down" else x


class TimestepEmbedding(nn.Module):
    """t (n,) → (n, width): cosines, then sines, of t at falling frequencies, and a zero where `width` is odd."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        # On the CPU always: a network that is built on the meta device keeps the values of this one.
        exponents = torch.arange(half, dtype=torch.float32, device="cpu") / half
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.exp(-math.log(10000) * exponents), persistent=False)
        self.odd = width % 2

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None] * self.frequencies
        waves = [angles.cos(), angles.sin()]
        return torch.cat([*waves, torch.zeros_like(angles[:, :1])] if self.odd else waves, dim=1)


class ResBlock(nn.Module):
    """x (n, C, H, W), embedding (n, E) → (n, D, H, W), or with height and width changed by `how`."""

    def __init__(self, inputs: int, outputs: int, embedding: int, *, scale_shift: bool, how: Resampling | None = None):
        super().__init__()
        self.how = how
        self.scale_shift = scale_shift
        self.in_layers = nn.Sequential(nn.GroupNorm(32, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, outputs * (2 if scale_shift else 1)))
        convolution = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.out_layers = nn.Sequential(nn.GroupNorm(32, outputs), nn.SiLU(), nn.Identity(), convolution)
        self.skip_connection = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        norm, activation, convolution = self.in_layers
        h = convolution(resample(activation(norm(x)), self.how))
        modulation = self.emb_layers(embedding)[:, :, None, None]
        norm, *rest = self.out_layers
        if self.scale_shift:
            scale, shift = modulation.chunk(2, dim=1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + modulation)
        for layer in rest:
            h = layer(h)
        return self.skip_connection(resample(x, self.how)) + h


class AttentionBlock(nn.Module):
    """Self-attention over positions, added to x (n, C, H, W)."""

    def __init__(self, channels: int, *, heads: int, order: AttentionOrder, flat: bool) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels do not divide into {heads} heads")
        convolution = nn.Conv1d if flat else nn.Conv2d
        self.flat, self.order, self.heads = flat, order, heads
        self.norm = nn.GroupNorm(32, channels)
        self.qkv = convolution(channels, 3 * channels, 1)
        self.proj_out = convolution(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        h = self.norm(x)
        qkv = self.qkv(h.flatten(2) if self.flat else h)
        q, k, v = self.split(qkv.reshape(n, 3 * channels, height * width))
        scale = (channels // self.heads) ** -0.25  # on both, as the original has it
        weights = ((q * scale).transpose(-1, -2) @ (k * scale)).softmax(-1)
        out = (v @ weights.transpose(-1, -2)).reshape(n, channels, height * width)
        out = self.proj_out(out if self.flat else out.reshape(x.shape))
        return x + out.reshape(x.shape)

    def split(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """(n, 3·H·c, L) → queries, keys and values, each (n, H, c, L)."""
        n, channels, length = qkv.shape
        if self.order == "heads first":
            return qkv.reshape(n, self.heads, 3, channels // (3 * self.heads), length).unbind(2)
        return qkv.reshape(n, 3, self.heads, channels // (3 * self.heads), length).unbind(1)


class Upsample(nn.Module):
    """Doubles height and width, with a convolution after it, or without."""

    def __init__(self, channels: int, *, convolved: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if convolved else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        doubled: Tensor = self.conv(resample(x, "up"))
        return doubled


class Downsample(nn.Module):
    """Halves height and width, by a convolution of stride 2 or by means."""

    def __init__(self, channels: int, *, convolved: bool) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if convolved else nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        halved: Tensor = self.op(x)
        return halved
