"""NCSN++ (Song et al. 2021, arXiv 2011.13456, appendix H) as the generator of a denoising diffusion GAN."""

import math
from collections.abc import Callable
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import silu

from importers.networks.embeddings import TimeEmbedding
from importers.networks.ncsnpp_blocks import (
    Attention,
    Combine,
    Enlarge,
    Fir,
    ModulatedNorm,
    PixelLinear,
    PixelNorm,
    Shrink,
    group_norm,
)


class Settings(BaseModel):
    """The arguments of the original's command line that shape the generator, with its defaults.

    Some of its choices stop with an error in its own forward pass, so that no trained model can have them.
    """

    model_config = ConfigDict(frozen=True)

    image_size: int = Field(32, ge=1)
    num_channels: int = Field(3, ge=1)
    centered: bool = True  # x is in [−1, 1], not in [0, 1]
    num_channels_dae: int = Field(128, ge=4)
    ch_mult: tuple[int, ...] = Field(min_length=1)
    num_res_blocks: int = Field(2, ge=1, le=100)
    attn_resolutions: tuple[int, ...] = (16,)
    resamp_with_conv: bool = True
    conditional: bool = True
    fir: bool = True
    fir_kernel: tuple[float, ...] = Field((1, 3, 3, 1), min_length=2)
    skip_rescale: bool = True
    resblock_type: Literal["biggan", "ddpm", "biggan_oneadagn"] = "biggan"
    progressive: Literal["none", "output_skip"] = "none"
    progressive_input: Literal["none", "input_skip", "residual"] = "residual"
    progressive_combine: Literal["sum", "cat"] = "sum"
    embedding_type: Literal["positional"] = "positional"  # "fourier" takes the log of t, which ends at 0
    not_use_tanh: bool = False
    nz: int = Field(100, ge=1)
    z_emb_dim: int = Field(256, ge=1)
    n_mlp: int = Field(3, ge=0, le=100)

    @model_validator(mode="after")
    def runs_in_the_original(self) -> Self:
        if self.image_size % 2 ** (len(self.ch_mult) - 1):
            raise ValueError(f"{len(self.ch_mult)} levels halve the sides each, which {self.image_size} cannot be")
        if self.progressive == "output_skip" and not self.fir:
            raise ValueError("the original code cannot run progressive 'output_skip' without fir")
        if self.resblock_type == "ddpm" and (not self.fir or self.resamp_with_conv):
            raise ValueError("the original code runs resblock_type 'ddpm' only with fir and without resamp_with_conv")
        return self

    @property
    def attends(self) -> list[bool]:
        """Whether a level, from the largest down, has attention."""
        return [self.image_size >> level in self.attn_resolutions for level in range(len(self.ch_mult))]

    @property
    def gain(self) -> float:
        """Of the sum of two ways."""
        return math.sqrt(0.5) if self.skip_rescale else 1.0


class ResidualBlock(nn.Module):
    """Two convolutions of x beside x itself, told of time and z; with `resample`, at half or twice its sides."""

    def __init__(
        self, settings: Settings, fir: Fir, inputs: int, outputs: int, resample: Literal["", "up", "down"] = ""
    ) -> None:
        super().__init__()
        kind, width = settings.resblock_type, settings.z_emb_dim
        resamplers: dict[str, Callable[[Tensor], Tensor]] = {"": nn.Identity(), "up": fir.up, "down": fir.down}
        self.resample = resamplers[resample]
        self.gain, self.timed = settings.gain, settings.conditional
        self.GroupNorm_0 = ModulatedNorm(inputs, width)
        self.Conv_0 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.Dense_0 = nn.Linear(4 * settings.num_channels_dae, outputs)
        self.modulates_twice = kind != "biggan_oneadagn"
        self.GroupNorm_1 = ModulatedNorm(outputs, width) if self.modulates_twice else group_norm(outputs)
        self.Conv_1 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.NIN_0 = PixelLinear(inputs, outputs) if kind == "ddpm" and inputs != outputs else None
        self.Conv_2 = nn.Conv2d(inputs, outputs, 1) if kind != "ddpm" and (inputs != outputs or resample) else None

    def forward(self, x: Tensor, time: Tensor, style: Tensor) -> Tensor:
        """x (n, inputs, H, W), time (n, 4 * num_channels_dae), style (n, z_emb_dim)."""
        hidden = self.Conv_0(self.resample(silu(self.GroupNorm_0(x, style))))
        if self.timed:
            hidden = hidden + self.Dense_0(silu(time))[:, :, None, None]
        hidden = self.GroupNorm_1(hidden, style) if self.modulates_twice else self.GroupNorm_1(hidden)
        hidden = self.Conv_1(silu(hidden))
        shortcut = self.NIN_0 or self.Conv_2 or nn.Identity()
        return (shortcut(self.resample(x)) + hidden) * self.gain


class Generator(nn.Module):
    """G(x_t, t, y, z), the clean image of a step's noisy one; t is 0, 1, …, T − 1 and there are no classes.

    `all_modules` holds the layers in the order in which the passes use them, since their numbers are the names of the
    published weights. So each `_add_…` goes through the levels as the pass of the same name does.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.fir = Fir(settings.fir_kernel if settings.fir else ())
        channels = settings.num_channels_dae
        self.time_embedding = TimeEmbedding(channels)
        self.all_modules = nn.ModuleList()
        if settings.conditional:
            self.all_modules.extend([nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, 4 * channels)])
        skipped = self._add_down()
        last = skipped[-1]
        self.all_modules.extend([self._block(last, last), Attention(last, settings.gain), self._block(last, last)])
        self._add_up(skipped)
        width = settings.z_emb_dim
        mapping: list[nn.Module] = [PixelNorm(), nn.Linear(settings.nz, width), nn.SiLU()]
        for _ in range(settings.n_mlp):
            mapping += [nn.Linear(width, width), nn.SiLU()]
        self.z_transform = nn.Sequential(*mapping)

    def forward(self, x: Tensor, t: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """x (n, C, H, W), t (n,) float32, y (n,) int64, z (n, nz) → like x, within [−1, 1] unless `not_use_tanh`."""
        settings = self.settings
        take = iter(self.all_modules).__next__
        style = self.z_transform(z)
        time = self.time_embedding(t)
        if settings.conditional:
            time = take()(time)
            time = take()(silu(time))
        skipped = self._down(take, x if settings.centered else 2 * x - 1, time, style)
        hidden = take()(skipped[-1], time, style)
        hidden = take()(hidden)
        hidden = take()(hidden, time, style)
        image = self._up(take, hidden, skipped, time, style)
        return image if settings.not_use_tanh else image.tanh()

    def _block(self, inputs: int, outputs: int, resample: Literal["", "up", "down"] = "") -> ResidualBlock:
        return ResidualBlock(self.settings, self.fir, inputs, outputs, resample)

    def _add_down(self) -> list[int]:
        """Returns the channels of what `_down` returns."""
        settings, add = self.settings, self.all_modules.append
        inputs, picture = settings.num_channels_dae, settings.num_channels
        add(nn.Conv2d(picture, inputs, 3, padding=1))
        skipped = [inputs]
        for level, multiple in enumerate(settings.ch_mult):
            outputs = settings.num_channels_dae * multiple
            for _ in range(settings.num_res_blocks):
                add(self._block(skipped[-1], outputs))
                if settings.attends[level]:
                    add(Attention(outputs, settings.gain))
                skipped.append(outputs)
            if level + 1 == len(settings.ch_mult):
                break
            if settings.resblock_type == "ddpm":
                add(Shrink(outputs, outputs, self.fir, convolves=False))
            else:
                add(self._block(outputs, outputs, "down"))
            if settings.progressive_input == "input_skip":
                concatenates = settings.progressive_combine == "cat"
                add(Combine(picture, outputs, concatenates=concatenates))
                outputs *= 1 + concatenates
            elif settings.progressive_input == "residual":
                add(Shrink(picture, outputs, self.fir, convolves=True))
                picture = outputs
            skipped.append(outputs)
        return skipped

    def _down(self, take: Callable[[], Any], x: Tensor, time: Tensor, style: Tensor) -> list[Tensor]:
        """What the way up takes, from the last one to the first."""
        settings = self.settings
        picture = x
        skipped: list[Tensor] = [take()(x)]
        for level in range(len(settings.ch_mult)):
            for _ in range(settings.num_res_blocks):
                hidden = take()(skipped[-1], time, style)
                skipped.append(take()(hidden) if settings.attends[level] else hidden)
            if level + 1 == len(settings.ch_mult):
                break
            hidden = take()(skipped[-1]) if settings.resblock_type == "ddpm" else take()(skipped[-1], time, style)
            if settings.progressive_input == "input_skip":
                picture = self.fir.down(picture)
                hidden = take()(picture, hidden)
            elif settings.progressive_input == "residual":
                hidden = picture = (take()(picture) + hidden) * settings.gain
            skipped.append(hidden)
        return skipped

    def _add_up(self, skipped: list[int]) -> None:
        settings, add = self.settings, self.all_modules.append
        inputs = skipped[-1]
        for level in reversed(range(len(settings.ch_mult))):
            outputs = settings.num_channels_dae * settings.ch_mult[level]
            for _ in range(settings.num_res_blocks + 1):
                add(self._block(inputs + skipped.pop(), outputs))
                inputs = outputs
            if settings.attends[level]:
                add(Attention(outputs, settings.gain))
            if settings.progressive == "output_skip" or level == 0:
                add(group_norm(outputs))
                add(nn.Conv2d(outputs, settings.num_channels, 3, padding=1))
            if level:
                add(Enlarge(self.fir) if settings.resblock_type == "ddpm" else self._block(outputs, outputs, "up"))

    def _up(
        self, take: Callable[[], Any], hidden: Tensor, skipped: list[Tensor], time: Tensor, style: Tensor
    ) -> Tensor:
        """The image: of the largest level, or with "output_skip" the sum of every level's."""
        settings = self.settings
        image: Tensor | None = None
        for level in reversed(range(len(settings.ch_mult))):
            for _ in range(settings.num_res_blocks + 1):
                hidden = take()(torch.cat([hidden, skipped.pop()], dim=1), time, style)
            if settings.attends[level]:
                hidden = take()(hidden)
            if settings.progressive == "output_skip" or level == 0:
                normed = silu(take()(hidden))
                part = take()(normed)
                image = part if image is None else self.fir.up(image) + part
            if level:
                hidden = take()(hidden) if settings.resblock_type == "ddpm" else take()(hidden, time, style)
        assert image is not None
        return image
