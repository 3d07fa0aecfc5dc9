"""What the U-Net of Ho et al. 2020 (arXiv 2006.11239) is built of, as in the PyTorch copy of it that DDIM's authors and
latent diffusion use. Attributes bear the names of the published weights."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, pad, silu


def group_norm(channels: int) -> nn.GroupNorm:
    """32 groups."""
    return nn.GroupNorm(32, channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """Two convolutions of x beside x itself, and between them `time` channels of an embedding, unless there are 0."""

    def __init__(self, inputs: int, outputs: int, time: int) -> None:
        super().__init__()
        self.norm1 = group_norm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.temb_proj = nn.Linear(time, outputs) if time else None
        self.norm2 = group_norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor, time: Tensor | None) -> Tensor:
        """x (n, inputs, H, W), time (n, time) → (n, outputs, H, W)."""
        hidden = self.conv1(silu(self.norm1(x)))
        if self.temb_proj is not None and time is not None:
            hidden = hidden + self.temb_proj(silu(time))[:, :, None, None]
        hidden = self.conv2(silu(self.norm2(hidden)))
        shortcut: Tensor = x if self.nin_shortcut is None else self.nin_shortcut(x)
        return shortcut + hidden


class Attention(nn.Module):
    """Self-attention of one head over the pixels, beside a way past it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(x)
        query, key, value = (part(hidden).flatten(2) for part in (self.q, self.k, self.v))
        weights = (query.transpose(1, 2) @ key / math.sqrt(x.shape[1])).softmax(dim=2)
        mixed = (value @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])
        result: Tensor = x + self.proj_out(mixed)
        return result


class Downsample(nn.Module):
    """Halves the sides, by a convolution or by the mean of 2×2 pixels."""

    def __init__(self, channels: int, *, convolves: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2) if convolves else None

    def forward(self, x: Tensor) -> Tensor:
        if self.conv is None:
            return avg_pool2d(x, 2)
        result: Tensor = self.conv(pad(x, (0, 1, 0, 1)))
        return result


class Upsample(nn.Module):
    """Doubles the sides by the nearest pixel, and convolves that or leaves it."""

    def __init__(self, channels: int, *, convolves: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if convolves else None

    def forward(self, x: Tensor) -> Tensor:
        x = interpolate(x, scale_factor=2.0, mode="nearest")
        return x if self.conv is None else self.conv(x)


class Level(nn.Module):
    """The blocks of one size, each with attention after it where there is any."""

    def __init__(self, blocks: list[ResidualBlock], attention: list[nn.Module]) -> None:
        super().__init__()
        self.block = nn.ModuleList(blocks)
        self.attn = nn.ModuleList(attention)

    def apply_block(self, i: int, x: Tensor, time: Tensor | None) -> Tensor:
        """Block i, and its attention."""
        hidden: Tensor = self.block[i](x, time)
        return self.attn[i](hidden) if len(self.attn) else hidden


class DownLevel(Level):
    """A level that ends at half its size, or at its own."""

    def __init__(self, blocks: list[ResidualBlock], attention: list[nn.Module], downsample: Downsample | None) -> None:
        super().__init__(blocks, attention)
        self.downsample = downsample

    def forward(self, x: Tensor, time: Tensor | None) -> list[Tensor]:
        """Each block's output, and that at half the size."""
        outputs = [x]
        for i in range(len(self.block)):
            outputs.append(self.apply_block(i, outputs[-1], time))
        if self.downsample is not None:
            outputs.append(self.downsample(outputs[-1]))
        return outputs[1:]


class UpLevel(Level):
    """A level that ends at twice its size, or at its own."""

    def __init__(self, blocks: list[ResidualBlock], attention: list[nn.Module], upsample: Upsample | None) -> None:
        super().__init__(blocks, attention)
        self.upsample = upsample

    def forward(self, x: Tensor, time: Tensor | None = None, skipped: list[Tensor] | None = None) -> Tensor:
        """Each block takes the last of `skipped` too, if there is such a list."""
        for i in range(len(self.block)):
            x = self.apply_block(i, x if skipped is None else torch.cat([x, skipped.pop()], dim=1), time)
        return x if self.upsample is None else self.upsample(x)


class Middle(nn.Module):
    """The blocks of the smallest size, with attention between them."""

    def __init__(self, channels: int, time: int, attention: nn.Module) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels, time)
        self.attn_1 = attention
        self.block_2 = ResidualBlock(channels, channels, time)

    def forward(self, x: Tensor, time: Tensor | None) -> Tensor:
        result: Tensor = self.block_2(self.attn_1(self.block_1(x, time)), time)
        return result
