"""Attention in denoising-diffusion-pytorch's U-Net: over all pixels, or linear (arXiv 1812.01243)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from importers.networks.lucidrains_blocks import Era, LayerNorm, RMSNorm


@dataclass(frozen=True)
class AttentionLayout:
    """One attention layer. `memory`: learned keys and values beside those of the pixels; None in versions without.

    `nested`: versions before 1.8 have the layer inside two others, which are in its weights' names.
    """

    linear: bool
    heads: int
    width: int  # of a head
    memory: int | None
    nested: bool


class Attention(nn.Module):
    """x (n, C, H, W) → what is added to it, from all pixels of a row."""

    def __init__(self, channels: int, layout: AttentionLayout, era: Era) -> None:
        super().__init__()
        self.layout, self.era = layout, era
        hidden = layout.heads * layout.width
        norm = RMSNorm if era.attention_norm == "rms" else LayerNorm
        if not layout.nested:
            self.norm = norm(channels)
        self.to_qkv = nn.Conv2d(channels, 3 * hidden, 1, bias=False)
        out = nn.Conv2d(hidden, channels, 1)
        self.to_out = nn.Sequential(out, norm(channels)) if layout.linear else out
        if layout.memory is not None:
            sizes = (layout.width, layout.memory) if layout.linear else (layout.memory, layout.width)
            self.mem_kv = nn.Parameter(torch.empty(2, layout.heads, *sizes))

    def forward(self, x: Tensor) -> Tensor:
        n, _, height, width = x.shape
        h = x if self.layout.nested else self.norm(x)
        qkv = self.to_qkv(h).reshape(n, 3, self.layout.heads, self.layout.width, height * width)
        q, k, v = qkv.unbind(1)  # each (n, heads, width, pixels)
        if self.layout.memory is not None:
            kept = self.mem_kv if self.layout.linear else self.mem_kv.transpose(-1, -2)
            k, v = (torch.cat([m.expand(n, -1, -1, -1), p], dim=-1) for m, p in zip(kept, (k, v), strict=True))
        out = self.mix_linearly(q, k, v) if self.layout.linear else self.mix(q, k, v)
        mixed: Tensor = self.to_out(out.reshape(n, -1, height, width))
        return mixed

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Softmax over all pixels."""
        weights = ((q * self.layout.width**-0.5).transpose(-1, -2) @ k).softmax(-1)
        return v @ weights.transpose(-1, -2)

    def mix_linearly(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Two softmaxes, so that the cost is linear in the number of pixels."""
        values = v / q.shape[-1] if self.era.spread_values else v
        context = k.softmax(-1) @ values.transpose(-1, -2)
        return context.transpose(-1, -2) @ (q.softmax(-2) * self.layout.width**-0.5)


class Normed(nn.Module):
    """A layer after a norm, as versions before 1.8 nest them."""

    def __init__(self, channels: int, layout: AttentionLayout, era: Era) -> None:
        super().__init__()
        self.norm = RMSNorm(channels) if era.attention_norm == "rms" else LayerNorm(channels)
        self.fn = Attention(channels, layout, era)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fn(self.norm(x))
        return out


class Residual(nn.Module):
    """Attention added to its input."""

    def __init__(self, channels: int, layout: AttentionLayout, era: Era) -> None:
        super().__init__()
        self.fn = Normed(channels, layout, era)

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(x) + x


class FlatResidual(Attention):
    """The same where the weights' names show no nesting."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x


def attention(channels: int, layout: AttentionLayout, era: Era) -> nn.Module:
    """Attention added to its input, by the weights' names of the version."""
    return (Residual if layout.nested else FlatResidual)(channels, layout, era)
