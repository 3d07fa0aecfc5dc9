"""The layers of EDM's U-Nets (Karras et al. 2022, arXiv 2206.00364, table 1 and appendix F).

Modules have the names of the published networks' weights, so that those load as they are.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, one_hot, silu

from importers.networks.openai_blocks import Resampling


@dataclass(frozen=True)
class Layout:
    """What both have, by the names that the published networks were made with."""

    img_resolution: int
    in_channels: int
    out_channels: int
    label_dim: int
    augment_dim: int
    model_channels: int
    channel_mult: tuple[int, ...]
    channel_mult_emb: int
    num_blocks: int
    attn_resolutions: tuple[int, ...]

    @property
    def levels(self) -> list[tuple[int, int, bool]]:
        """(size, channels, whether it attends) of each level, downward."""
        sizes = [self.img_resolution >> level for level in range(len(self.channel_mult))]
        widths = [self.model_channels * multiple for multiple in self.channel_mult]
        return [(size, width, size in self.attn_resolutions) for size, width in zip(sizes, widths, strict=True)]


def labels_of(y: Tensor, count: int) -> Tensor:
    """y (n,) → (n, count) float32: one-hot, and all zeros for `count` or more, which means "no class"."""
    return one_hot(y.clamp(max=count), count + 1)[:, :count].float()


class GroupNorm(nn.GroupNorm):
    """With 32 groups, or fewer, so that each has four channels at least."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(max(min(32, channels // 4), 1), channels, eps=eps)


class PositionalEmbedding(nn.Module):
    """t (n,) → (n, width): cosines, then sines. The lowest frequency is 1/10000 with `endpoint`, else just above it."""

    def __init__(self, width: int, *, endpoint: bool = False) -> None:
        super().__init__()
        half = width // 2
        exponents = torch.arange(half, dtype=torch.float32, device="cpu") / (half - (1 if endpoint else 0))
        self.frequencies: Tensor
        self.register_buffer("frequencies", (1 / 10000) ** exponents, persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None] * self.frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class FourierEmbedding(nn.Module):
    """The same at random frequencies, which are part of the weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.freqs: Tensor
        self.register_buffer("freqs", torch.empty(width // 2))

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None] * (2 * math.pi * self.freqs)
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class Convolution(nn.Module):
    """A convolution that may change height and width by a filter, before it or fused with it.

    `kernel` 0 is the filter alone. The filter is f·fᵀ of the taps `filter_width` long; it is part of the weights.
    Fused, its padding and the convolution's are one, at the edge too.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        how: Resampling | None = None,
        filter_width: int = 2,
        fused: bool = False,
    ) -> None:
        super().__init__()
        self.inputs, self.outputs, self.how, self.fused = inputs, outputs, how, fused and kernel > 0
        self.pad, self.filter_pad = kernel // 2, (filter_width - 1) // 2
        if kernel:
            self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))
            self.bias = nn.Parameter(torch.empty(outputs))
        if how:
            self.resample_filter: Tensor
            self.register_buffer("resample_filter", torch.empty(1, 1, filter_width, filter_width))
        self.kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        if self.fused and self.how == "down":
            x = conv2d(x, self.weight, padding=self.pad + self.filter_pad)
            return self.smaller(x, 0) + self.bias[:, None, None]
        if self.fused and self.how == "up":
            x = self.larger(x, max(self.filter_pad - self.pad, 0))
            return conv2d(x, self.weight, self.bias, padding=max(self.pad - self.filter_pad, 0))
        if self.how:
            x = self.larger(x, self.filter_pad) if self.how == "up" else self.smaller(x, self.filter_pad)
        return conv2d(x, self.weight, self.bias, padding=self.pad) if self.kernel else x

    def larger(self, x: Tensor, pad: int) -> Tensor:
        """Twice the height and width."""
        channels = x.shape[1]
        taps = (4 * self.resample_filter).expand(channels, -1, -1, -1)
        return conv_transpose2d(x, taps, groups=channels, stride=2, padding=pad)

    def smaller(self, x: Tensor, pad: int) -> Tensor:
        """Half the height and width."""
        channels = x.shape[1]
        return conv2d(x, self.resample_filter.expand(channels, -1, -1, -1), groups=channels, stride=2, padding=pad)


@dataclass(frozen=True)
class BlockStyle:
    """What all blocks of a network share.

    `heads`: of attention; None: one each 64 channels. `skip_scale`: what sums are multiplied by. `scale_shift`: whether
    the embedding scales too. `project_skip`: whether a skip that changes the size has a convolution always.
    """

    embedding: int
    heads: int | None
    skip_scale: float
    eps: float
    filter_width: int
    project_skip: bool
    scale_shift: bool


class UNetBlock(nn.Module):
    """x (n, C, H, W), embedding (n, E) → (n, D, H, W), or with height and width changed by `how`; then attention."""

    def __init__(
        self, inputs: int, outputs: int, style: BlockStyle, *, how: Resampling | None = None, attends: bool = False
    ) -> None:
        super().__init__()
        self.inputs, self.outputs, self.style = inputs, outputs, style
        self.heads = (style.heads or outputs // 64) if attends else 0
        if self.heads and outputs % self.heads:
            raise ValueError(f"{outputs} channels do not divide into {self.heads} heads")
        self.norm0 = GroupNorm(inputs, style.eps)
        self.conv0 = Convolution(inputs, outputs, 3, how=how, filter_width=style.filter_width)
        self.affine = nn.Linear(style.embedding, outputs * (2 if style.scale_shift else 1))
        self.norm1 = GroupNorm(outputs, style.eps)
        self.conv1 = Convolution(outputs, outputs, 3)
        self.skip: nn.Module = nn.Identity()
        if outputs != inputs or how:
            kernel = 1 if style.project_skip or outputs != inputs else 0
            self.skip = Convolution(inputs, outputs, kernel, how=how, filter_width=style.filter_width)
        if self.heads:  # none where there are fewer than 64 channels
            self.norm2 = GroupNorm(outputs, style.eps)
            self.qkv = Convolution(outputs, 3 * outputs, 1)
            self.proj = Convolution(outputs, outputs, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv0(silu(self.norm0(x)))
        modulation = self.affine(embedding)[:, :, None, None]
        if self.style.scale_shift:
            scale, shift = modulation.chunk(2, dim=1)
            h = silu(shift + self.norm1(h) * (scale + 1))
        else:
            h = silu(self.norm1(h + modulation))
        h = (self.conv1(h) + self.skip(x)) * self.style.skip_scale
        return self.attend(h) if self.heads else h

    def attend(self, x: Tensor) -> Tensor:
        """Self-attention over positions, added to x."""
        n, channels, height, width = x.shape
        each = channels // self.heads
        # The channels of queries, keys and values are (heads, c, 3).
        qkv = self.qkv(self.norm2(x)).reshape(n, self.heads, each, 3, height * width)
        q, k, v = qkv.unbind(3)
        weights = (q.transpose(-1, -2) @ (k / math.sqrt(each))).softmax(-1)
        out: Tensor = self.proj((v @ weights.transpose(-1, -2)).reshape(x.shape))
        return (out + x) * self.style.skip_scale
