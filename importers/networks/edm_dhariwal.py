"""EDM's DhariwalUNet: ADM's network (Dhariwal & Nichol 2021, arXiv 2105.05233)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from importers.networks.edm_blocks import (
    BlockStyle,
    Convolution,
    GroupNorm,
    Layout,
    PositionalEmbedding,
    UNetBlock,
    labels_of,
)


class DhariwalUNet(nn.Module):
    """x (n, C, H, W) already scaled, t (n,) the noise label, y (n,) → (n, D, H, W)."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        first, embedding = layout.model_channels, layout.model_channels * layout.channel_mult_emb
        self.style = BlockStyle(embedding, None, 1.0, 1e-5, 2, project_skip=False, scale_shift=True)
        self.map_noise = PositionalEmbedding(first)
        if layout.augment_dim:
            self.map_augment = nn.Linear(layout.augment_dim, first, bias=False)  # of training: its input is zero here
        self.map_layer0 = nn.Linear(first, embedding)
        self.map_layer1 = nn.Linear(embedding, embedding)
        if layout.label_dim:
            self.map_label = nn.Linear(layout.label_dim, embedding, bias=False)
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        widths = self.add_encoder()
        self.add_decoder(widths)
        outputs = layout.levels[0][1]
        self.out_norm = GroupNorm(outputs)
        self.out_conv = Convolution(outputs, layout.out_channels, 3)

    def add_encoder(self) -> list[int]:
        """The downward half; returns the channels after each of its layers."""
        size, width, _ = self.layout.levels[0]
        self.enc[f"{size}x{size}_conv"] = Convolution(self.layout.in_channels, width, 3)
        widths = [width]
        for level, (size, width, attends) in enumerate(self.layout.levels):
            if level:
                self.enc[f"{size}x{size}_down"] = UNetBlock(widths[-1], widths[-1], self.style, how="down")
                widths.append(widths[-1])
            for index in range(self.layout.num_blocks):
                block = UNetBlock(widths[-1], width, self.style, attends=attends)
                self.enc[f"{size}x{size}_block{index}"] = block
                widths.append(width)
        return widths

    def add_decoder(self, widths: list[int]) -> None:
        """The upward half, whose layers take the outputs of the downward one, last to first."""
        current = widths[-1]
        for level, (size, width, attends) in reversed(list(enumerate(self.layout.levels))):
            if level == len(self.layout.levels) - 1:
                self.dec[f"{size}x{size}_in0"] = UNetBlock(current, current, self.style, attends=True)
                self.dec[f"{size}x{size}_in1"] = UNetBlock(current, current, self.style)
            else:
                self.dec[f"{size}x{size}_up"] = UNetBlock(current, current, self.style, how="up")
            for index in range(self.layout.num_blocks + 1):
                block = UNetBlock(current + widths.pop(), width, self.style, attends=attends)
                self.dec[f"{size}x{size}_block{index}"] = block
                current = width

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        embedding = self.map_layer1(silu(self.map_layer0(self.map_noise(t))))
        if self.layout.label_dim:
            embedding = embedding + self.map_label(labels_of(y, self.layout.label_dim))
        embedding = silu(embedding)
        skips = []
        for block in self.enc.values():
            x = block(x, embedding) if isinstance(block, UNetBlock) else block(x)
            skips.append(x)
        for block in self.dec.values():
            assert isinstance(block, UNetBlock)
            x = block(x if x.shape[1] == block.inputs else torch.cat([x, skips.pop()], dim=1), embedding)
        out: Tensor = self.out_conv(silu(self.out_norm(x)))
        return out
