"""EDM's SongUNet: DDPM++ and NCSN++ (Song et al. 2020, arXiv 2011.13456)."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from importers.networks.edm_blocks import (
    BlockStyle,
    Convolution,
    FourierEmbedding,
    GroupNorm,
    Layout,
    PositionalEmbedding,
    UNetBlock,
    labels_of,
)


@dataclass(frozen=True)
class SongOptions:
    """What SongUNet has beside."""

    embedding_type: Literal["fourier", "positional"] = "positional"
    channel_mult_noise: int = 1
    encoder_type: Literal["standard", "skip", "residual"] = "standard"
    decoder_type: Literal["standard", "skip"] = "standard"
    filter_width: int = 2


class SongUNet(nn.Module):
    """x (n, C, H, W) already scaled, t (n,) the noise label, y (n,) → (n, D, H, W).

    With a "skip" or "residual" encoder the smaller images go into each level too; with a "skip" decoder each level adds
    to the output. Names of those layers have `aux` in them.
    """

    def __init__(self, layout: Layout, options: SongOptions) -> None:
        super().__init__()
        self.layout, self.options = layout, options
        embedding = layout.model_channels * layout.channel_mult_emb
        noise = layout.model_channels * options.channel_mult_noise
        self.style = BlockStyle(
            embedding, 1, math.sqrt(0.5), 1e-6, options.filter_width, project_skip=True, scale_shift=False
        )
        fourier = options.embedding_type == "fourier"
        self.map_noise = FourierEmbedding(noise) if fourier else PositionalEmbedding(noise, endpoint=True)
        if layout.label_dim:
            self.map_label = nn.Linear(layout.label_dim, noise)
        if layout.augment_dim:
            self.map_augment = nn.Linear(layout.augment_dim, noise, bias=False)  # of training: its input is zero here
        self.map_layer0 = nn.Linear(noise, embedding)
        self.map_layer1 = nn.Linear(embedding, embedding)
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        widths = self.add_encoder()
        self.add_decoder(widths)

    def add_encoder(self) -> list[int]:
        """The downward half; returns the channels after each of its layers."""
        size = self.layout.img_resolution
        widths = [self.layout.model_channels]
        self.enc[f"{size}x{size}_conv"] = Convolution(self.layout.in_channels, widths[-1], 3)
        aux = self.layout.in_channels
        for level, (size, width, attends) in enumerate(self.layout.levels):
            if level:
                self.enc[f"{size}x{size}_down"] = UNetBlock(widths[-1], widths[-1], self.style, how="down")
                widths.append(widths[-1])
                aux = self.add_smaller_image(f"{size}x{size}", aux, widths[-1])
            for index in range(self.layout.num_blocks):
                block = UNetBlock(widths[-1], width, self.style, attends=attends)
                self.enc[f"{size}x{size}_block{index}"] = block
                widths.append(width)
        return widths

    def add_smaller_image(self, size: str, aux: int, width: int) -> int:
        """The layers that bring the image of `aux` channels into a level; returns its channels there."""
        taps = self.options.filter_width
        if self.options.encoder_type == "skip":
            self.enc[f"{size}_aux_down"] = Convolution(aux, aux, 0, how="down", filter_width=taps)
            self.enc[f"{size}_aux_skip"] = Convolution(aux, width, 1)
        if self.options.encoder_type == "residual":
            convolution = Convolution(aux, width, 3, how="down", filter_width=taps, fused=True)
            self.enc[f"{size}_aux_residual"] = convolution
            return width
        return aux

    def add_decoder(self, widths: list[int]) -> None:
        """The upward half, whose layers take the outputs of the downward one, last to first."""
        current, last = widths[-1], len(self.layout.levels) - 1
        skip = self.options.decoder_type == "skip"
        for level, (size, width, attends) in reversed(list(enumerate(self.layout.levels))):
            if level == last:
                self.dec[f"{size}x{size}_in0"] = UNetBlock(current, current, self.style, attends=True)
                self.dec[f"{size}x{size}_in1"] = UNetBlock(current, current, self.style)
            else:
                self.dec[f"{size}x{size}_up"] = UNetBlock(current, current, self.style, how="up")
            for index in range(self.layout.num_blocks + 1):
                final = index == self.layout.num_blocks
                block = UNetBlock(current + widths.pop(), width, self.style, attends=attends and final)
                self.dec[f"{size}x{size}_block{index}"] = block
                current = width
            if skip or level == 0:
                self.add_output(f"{size}x{size}", current, larger=skip and level < last)

    def add_output(self, size: str, width: int, *, larger: bool) -> None:
        """The layers that make an output of a level, with the lower levels' output made `larger` first."""
        outputs = self.layout.out_channels
        if larger:
            taps = self.options.filter_width
            self.dec[f"{size}_aux_up"] = Convolution(outputs, outputs, 0, how="up", filter_width=taps)
        self.dec[f"{size}_aux_norm"] = GroupNorm(width, 1e-6)
        self.dec[f"{size}_aux_conv"] = Convolution(width, outputs, 3)

    def embed(self, t: Tensor, y: Tensor) -> Tensor:
        """(n, E) of noise and class."""
        cosines, sines = self.map_noise(t).chunk(2, dim=1)
        embedding = torch.cat([sines, cosines], dim=1)
        if self.layout.label_dim:
            labels = labels_of(y, self.layout.label_dim) * math.sqrt(self.layout.label_dim)
            embedding = embedding + self.map_label(labels)
        return silu(self.map_layer1(silu(self.map_layer0(embedding))))

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        embedding = self.embed(t, y)
        return self.decode(self.encode(x, embedding), embedding)

    def encode(self, x: Tensor, embedding: Tensor) -> list[Tensor]:
        """The outputs of the downward half."""
        skips: list[Tensor] = []
        aux = x
        for name, layer in self.enc.items():
            if name.endswith("aux_down"):
                aux = layer(aux)
            elif name.endswith("aux_skip"):
                skips[-1] = skips[-1] + layer(aux)
            elif name.endswith("aux_residual"):
                skips[-1] = aux = (skips[-1] + layer(aux)) / math.sqrt(2)
            else:
                previous = skips[-1] if skips else x
                skips.append(layer(previous, embedding) if isinstance(layer, UNetBlock) else layer(previous))
        return skips

    def decode(self, skips: list[Tensor], embedding: Tensor) -> Tensor:
        """The output, of what the downward half gave."""
        x = skips[-1]
        out: Tensor | None = None
        normed = x
        for name, layer in self.dec.items():
            if name.endswith("aux_up"):
                out = layer(out)
            elif name.endswith("aux_norm"):
                normed = silu(layer(x))
            elif name.endswith("aux_conv"):
                out = layer(normed) if out is None else layer(normed) + out
            else:
                assert isinstance(layer, UNetBlock)
                x = layer(x if x.shape[1] == layer.inputs else torch.cat([x, skips.pop()], dim=1), embedding)
        assert out is not None
        return out
