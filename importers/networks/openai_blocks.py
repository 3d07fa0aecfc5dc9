"""What OpenAI's U-Net (Dhariwal & Nichol 2021, arXiv 2105.05233, appendix) is built of, and latent diffusion's after it.

Attributes bear the names of the published weights.
"""

import math
from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F


def group_norm(channels: int) -> nn.GroupNorm:
    """32 groups."""
    return nn.GroupNorm(32, channels)


def enlarge(x: Tensor) -> Tensor:
    """(n, C, H, W) → (n, C, 2H, 2W), the nearest pixel."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def shrink(x: Tensor) -> Tensor:
    """(n, C, H, W) → (n, C, H/2, W/2), the mean of 2×2 pixels."""
    return F.avg_pool2d(x, 2)


class ResidualBlock(nn.Module):
    """Two convolutions of x beside x itself, told of time and class; with `resample`, at half or twice its sides.

    `modulates`: the embedding scales and shifts the second norm; otherwise it is added before it.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedding: int,
        *,
        modulates: bool,
        resample: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.modulates, self.resample = modulates, resample
        self.in_layers = nn.Sequential(group_norm(inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, outputs * (1 + modulates)))
        self.out_layers = nn.Sequential(
            group_norm(outputs), nn.SiLU(), nn.Identity(), nn.Conv2d(outputs, outputs, 3, padding=1)
        )  # the identity stands for the dropout, which has a number
        self.skip_connection = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor | None) -> Tensor:
        """x (n, inputs, H, W), embedding (n, width) → (n, outputs, H, W). `context` is for other layers."""
        hidden = self.in_layers[:-1](x)
        if self.resample is not None:
            hidden, x = self.resample(hidden), self.resample(x)
        hidden = self.in_layers[-1](hidden)
        style = self.emb_layers(embedding)[:, :, None, None]
        if self.modulates:
            scale, shift = style.chunk(2, dim=1)
            hidden = self.out_layers[1:](self.out_layers[0](hidden) * (1 + scale) + shift)
        else:
            hidden = self.out_layers(hidden + style)
        result: Tensor = self.skip_connection(x) + hidden
        return result


class Attention(nn.Module):
    """Self-attention over the pixels, beside a way past it.

    `order` of the channels of queries, keys and values: a head's three next to each other, or all heads' queries first.
    """

    def __init__(self, channels: int, heads: int, order: Literal["heads first", "three first"]) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels cannot be shared among {heads} attention heads")
        self.heads, self.order = heads, order
        self.norm = group_norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor | None) -> Tensor:
        pixels = x.flatten(2)
        qkv = self.qkv(self.norm(pixels))
        if self.order == "heads first":
            query, key, value = qkv.unflatten(1, (self.heads, 3, -1)).unbind(dim=2)
        else:
            query, key, value = qkv.unflatten(1, (3, self.heads, -1)).unbind(dim=1)
        scale = math.sqrt(self.heads / x.shape[1])
        weights = (query.transpose(2, 3) @ key * scale).softmax(dim=3)
        mixed = (value @ weights.transpose(2, 3)).flatten(1, 2)
        return (pixels + self.proj_out(mixed)).unflatten(2, x.shape[2:])  # type: ignore[no-any-return]


class Downsample(nn.Module):
    """Halves the sides, by a convolution or by the mean of 2×2 pixels."""

    def __init__(self, channels: int, *, convolves: bool) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if convolves else nn.AvgPool2d(2)

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor | None) -> Tensor:
        result: Tensor = self.op(x)
        return result


class Upsample(nn.Module):
    """Doubles the sides by the nearest pixel, and convolves that or leaves it."""

    def __init__(self, channels: int, *, convolves: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if convolves else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor | None) -> Tensor:
        result: Tensor = self.conv(enlarge(x))
        return result


class Input(nn.Conv2d):
    """The first convolution."""

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor | None) -> Tensor:  # type: ignore[override]
        return super().forward(x)


class Stage(nn.Sequential):
    """Layers one after the other, each told of time and class, and of a context to attend to."""

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor | None) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x, embedding, context)
        return x
