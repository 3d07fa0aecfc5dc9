"""denoising-diffusion-pytorch's U-Net (github.com/lucidrains/denoising-diffusion-pytorch)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from importers.networks.lucidrains_attention import AttentionLayout, attention
from importers.networks.lucidrains_blocks import (
    Downsample,
    Era,
    LearnedEmbedding,
    ResnetBlock,
    SinusoidalEmbedding,
    Upsample,
)


@dataclass(frozen=True)
class Layout:
    """The architecture. `widths` are the channels between levels, one more than there are levels."""

    in_channels: int  # twice the image's where the last x0 is given too
    out_channels: int
    embedding: int
    time_width: int  # of the embedding of time before its layers
    learned_times: bool
    widths: tuple[int, ...]
    attention: tuple[AttentionLayout, ...]  # a level each, downward
    mid_attention: AttentionLayout
    groups: int | None  # of the blocks' GroupNorm; None: RMSNorm
    unshuffled: bool  # how the size halves: pixels to channels, or a strided convolution
    era: Era
    theta: float = 10000.0


class Down(nn.ModuleList):
    """Two blocks, attention, and a smaller size; their outputs are appended to `skips`."""

    def forward(self, x: Tensor, embedding: Tensor, skips: list[Tensor]) -> Tensor:
        block1, block2, attends, smaller = self
        skips.append(block1(x, embedding))
        skips.append(attends(block2(skips[-1], embedding)))
        halved: Tensor = smaller(skips[-1])
        return halved


class Up(nn.ModuleList):
    """Two blocks, attention, and a larger size; the blocks take from the end of `skips`."""

    def forward(self, x: Tensor, embedding: Tensor, skips: list[Tensor]) -> Tensor:
        block1, block2, attends, larger = self
        x = block1(torch.cat([x, skips.pop()], dim=1), embedding)
        x = attends(block2(torch.cat([x, skips.pop()], dim=1), embedding))
        doubled: Tensor = larger(x)
        return doubled


class UNet(nn.Module):
    """x (n, C, H, W), t (n,), y, which is ignored, → (n, D, H, W).

    With self-conditioning (arXiv 2208.04202) the last argument is x0 of the step before, zeros in the first one.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        first, last = layout.widths[0], layout.widths[-1]
        self.init_conv = nn.Conv2d(layout.in_channels, first, 7, padding=3)
        embedded = LearnedEmbedding(layout.time_width - 1) if layout.learned_times else None
        self.time_mlp = nn.Sequential(
            embedded or SinusoidalEmbedding(layout.time_width, layout.theta),
            nn.Linear(layout.time_width, layout.embedding),
            nn.GELU(),
            nn.Linear(layout.embedding, layout.embedding),
        )
        self.downs = nn.ModuleList(self.down(level) for level in range(len(layout.attention)))
        self.mid_block1 = self.block(last, last)
        self.mid_attn = attention(last, layout.mid_attention, layout.era)
        self.mid_block2 = self.block(last, last)
        self.ups = nn.ModuleList(self.up(level) for level in reversed(range(len(layout.attention))))
        self.final_res_block = self.block(2 * first, first)
        self.final_conv = nn.Conv2d(first, layout.out_channels, 1)

    def block(self, inputs: int, outputs: int) -> ResnetBlock:
        return ResnetBlock(inputs, outputs, self.layout.embedding, self.layout.groups, self.layout.era)

    def down(self, level: int) -> Down:
        inputs, outputs = self.layout.widths[level : level + 2]
        smaller: nn.Module = nn.Conv2d(inputs, outputs, 4, 2, 1)
        if level == len(self.layout.attention) - 1:
            smaller = nn.Conv2d(inputs, outputs, 3, padding=1)
        elif self.layout.unshuffled:
            smaller = Downsample(inputs, outputs)
        attends = attention(inputs, self.layout.attention[level], self.layout.era)
        return Down([self.block(inputs, inputs), self.block(inputs, inputs), attends, smaller])

    def up(self, level: int) -> Up:
        outputs, inputs = self.layout.widths[level : level + 2]
        larger = Upsample(inputs, outputs) if level else nn.Conv2d(inputs, outputs, 3, padding=1)
        attends = attention(inputs, self.layout.attention[level], self.layout.era)
        both = inputs + outputs
        return Up([self.block(both, inputs), self.block(both, inputs), attends, larger])

    def forward(self, x: Tensor, t: Tensor, y: Tensor, x0_prev: Tensor | None = None) -> Tensor:
        x = self.init_conv(x if x0_prev is None else torch.cat([x0_prev, x], dim=1))
        first, embedding = x, self.time_mlp(t)
        skips: list[Tensor] = []
        for down in self.downs:
            x = down(x, embedding, skips)
        x = self.mid_block2(self.mid_attn(self.mid_block1(x, embedding)), embedding)
        for up in self.ups:
            x = up(x, embedding, skips)
        out: Tensor = self.final_conv(self.final_res_block(torch.cat([x, first], dim=1), embedding))
        return out
