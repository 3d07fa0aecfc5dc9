"""The U-Net of OpenAI's three repositories (Dhariwal & Nichol 2021, arXiv 2105.05233)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from importers.networks.openai_blocks import (
    AttentionBlock,
    AttentionOrder,
    Downsample,
    Resampling,
    ResBlock,
    TimestepEmbedding,
    Upsample,
)
from importers.networks.spatial_transformer import SpatialTransformer


@dataclass(frozen=True)
class Layout:
    """The architecture. `channels` has a level an entry; `attention` says which levels attend."""

    in_channels: int
    out_channels: int
    model_channels: int
    channels: tuple[int, ...]
    blocks: int  # residual blocks a level
    attention: tuple[bool, ...]
    classes: int = 0
    scale_shift: bool = True  # whether the embedding scales too
    residual_resampling: bool = False  # whether residual blocks change the size
    convolved_resampling: bool = True  # whether a convolution comes with the change of size
    flat_attention: bool = True  # whether attention's projections are one-dimensional convolutions


@dataclass(frozen=True)
class Heads:
    """How many heads attention has: `count`, or `up_count` in the upward half, or one each `width` channels."""

    count: int = 1
    up_count: int = 1
    width: int | None = None
    order: AttentionOrder = "heads first"

    def of(self, channels: int, *, up: bool) -> int:
        """For a layer of so many channels."""
        if self.width is not None:
            return channels // self.width
        return self.up_count if up else self.count


class Stage(nn.ModuleList):
    """Layers in a row, of which residual blocks take the embedding too, and transformers the context."""

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor | None) -> Tensor:
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, embedding)
            else:
                x = layer(x, context) if isinstance(layer, SpatialTransformer) else layer(x)
        return x


class UNet(nn.Module):
    """x (n, C, H, W), t (n,) as the original network takes it, y (n,) → (n, D, H, W).

    A label of `layout.classes` or more adds nothing to the embedding: the originals know no "no class".
    """

    def __init__(self, layout: Layout, heads: Heads) -> None:
        super().__init__()
        self.layout, self.heads = layout, heads
        self.embedding_width = 4 * layout.model_channels
        self.timestep_embedding = TimestepEmbedding(layout.model_channels)
        self.time_embed = nn.Sequential(
            nn.Linear(layout.model_channels, self.embedding_width),
            nn.SiLU(),
            nn.Linear(self.embedding_width, self.embedding_width),
        )
        if layout.classes:
            self.label_emb = nn.Embedding(layout.classes, self.embedding_width)
        first, last = layout.channels[0], layout.channels[-1]
        self.input_blocks = nn.ModuleList([Stage([nn.Conv2d(layout.in_channels, first, 3, padding=1)])])
        widths = self.add_downward([first])
        attention = self.attention(last, up=False)
        self.middle_block = Stage([self.block(last, last), attention, self.block(last, last)])
        self.output_blocks = nn.ModuleList()
        self.add_upward(widths)
        self.out = nn.Sequential(
            nn.GroupNorm(32, first), nn.SiLU(), nn.Conv2d(first, layout.out_channels, 3, padding=1)
        )

    def block(self, inputs: int, outputs: int, how: Resampling | None = None) -> ResBlock:
        return ResBlock(inputs, outputs, self.embedding_width, scale_shift=self.layout.scale_shift, how=how)

    def attention(self, channels: int, *, up: bool) -> nn.Module:
        heads = self.heads.of(channels, up=up)
        return AttentionBlock(channels, heads=heads, order=self.heads.order, flat=self.layout.flat_attention)

    def add_downward(self, widths: list[int]) -> list[int]:
        """The stages of the downward half; returns the width after each stage."""
        layout = self.layout
        for level, width in enumerate(layout.channels):
            for _ in range(layout.blocks):
                layers: list[nn.Module] = [self.block(widths[-1], width)]
                if layout.attention[level]:
                    layers.append(self.attention(width, up=False))
                self.input_blocks.append(Stage(layers))
                widths.append(width)
            if level < len(layout.channels) - 1:
                smaller: nn.Module = Downsample(width, convolved=layout.convolved_resampling)
                if layout.residual_resampling:
                    smaller = self.block(width, width, "down")
                self.input_blocks.append(Stage([smaller]))
                widths.append(width)
        return widths

    def add_upward(self, widths: Sequence[int]) -> None:
        """The stages of the upward half; each takes the output of a downward one, of `widths`, last to first."""
        layout = self.layout
        skips = list(widths)
        current = widths[-1]
        for level, width in reversed(list(enumerate(layout.channels))):
            for index in range(layout.blocks + 1):
                layers: list[nn.Module] = [self.block(current + skips.pop(), width)]
                current = width
                if layout.attention[level]:
                    layers.append(self.attention(width, up=True))
                if level and index == layout.blocks:
                    larger: nn.Module = Upsample(width, convolved=layout.convolved_resampling)
                    layers.append(self.block(width, width, "up") if layout.residual_resampling else larger)
                self.output_blocks.append(Stage(layers))

    def embed(self, t: Tensor, y: Tensor) -> Tensor:
        """(n, E) of time and class."""
        embedding: Tensor = self.time_embed(self.timestep_embedding(t))
        if not self.layout.classes:
            return embedding
        labels = self.label_emb(y.clamp(max=self.layout.classes - 1))
        return embedding + torch.where((y < self.layout.classes)[:, None], labels, 0.0)

    def context(self, y: Tensor) -> Tensor | None:
        """What transformers attend to, (n, tokens, width)."""
        return None

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        embedding, context = self.embed(t, y), self.context(y)
        skips = []
        for stage in self.input_blocks:
            x = stage(x, embedding, context)
            skips.append(x)
        x = self.middle_block(x, embedding, context)
        for stage in self.output_blocks:
            x = stage(torch.cat([x, skips.pop()], 1), embedding, context)
        out: Tensor = self.out(x)
        return out
