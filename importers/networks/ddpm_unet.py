"""The U-Net of Ho et al. 2020 (arXiv 2006.11239, appendix B), as DDIM's authors wrote it for PyTorch."""

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.functional import silu

from importers.networks.ddpm_blocks import (
    Attention,
    DownLevel,
    Downsample,
    Middle,
    ResidualBlock,
    UpLevel,
    Upsample,
    group_norm,
)
from importers.networks.embeddings import TimeEmbedding


class Settings(BaseModel):
    """What shapes the network, of `model` in the original's configuration."""

    model_config = ConfigDict(frozen=True)

    in_channels: int = Field(ge=1)
    out_ch: int = Field(ge=1)
    ch: int = Field(ge=32)
    ch_mult: tuple[int, ...] = Field(min_length=1)
    num_res_blocks: int = Field(ge=1, le=100)
    attn_resolutions: tuple[int, ...]
    resamp_with_conv: bool = True


class TimeLayers(nn.Module):
    """(n,) → (n, 4·width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = TimeEmbedding(width)
        self.dense = nn.ModuleList([nn.Linear(width, 4 * width), nn.Linear(4 * width, 4 * width)])

    def forward(self, t: Tensor) -> Tensor:
        hidden = self.dense[0](self.embedding(t))
        result: Tensor = self.dense[1](silu(hidden))
        return result


class UNet(nn.Module):
    """ε̂(x_t, t); t is a training timestep, and there are no classes."""

    def __init__(self, settings: Settings, image_size: int) -> None:
        super().__init__()
        if image_size % 2 ** (len(settings.ch_mult) - 1):
            raise ValueError(f"{len(settings.ch_mult)} levels halve the sides each, which {image_size} cannot be")
        self.settings, self.image_size = settings, image_size
        self.temb = TimeLayers(settings.ch)
        self.conv_in = nn.Conv2d(settings.in_channels, settings.ch, 3, padding=1)
        widths = [settings.ch * multiple for multiple in (1, *settings.ch_mult)]  # before and after each level
        levels = range(len(settings.ch_mult))
        self.down = nn.ModuleList(self._down(level, widths) for level in levels)
        self.mid = Middle(widths[-1], 4 * settings.ch, Attention(widths[-1]))
        self.up = nn.ModuleList(self._up(level, widths) for level in levels)
        self.norm_out = group_norm(widths[1])
        self.conv_out = nn.Conv2d(widths[1], settings.out_ch, 3, padding=1)

    def _layers(self, level: int, inputs: list[int], outputs: int) -> tuple[list[ResidualBlock], list[nn.Module]]:
        """A block for each of `inputs`, and attention after each or after none."""
        attends = self.image_size >> level in self.settings.attn_resolutions
        blocks = [ResidualBlock(channels, outputs, 4 * self.settings.ch) for channels in inputs]
        return blocks, [Attention(outputs) for _ in inputs] if attends else []

    def _down(self, level: int, widths: list[int]) -> DownLevel:
        before, outputs = widths[level : level + 2]
        layers = self._layers(level, [before] + [outputs] * (self.settings.num_res_blocks - 1), outputs)
        last = level + 1 == len(self.settings.ch_mult)
        return DownLevel(*layers, None if last else Downsample(outputs, convolves=self.settings.resamp_with_conv))

    def _up(self, level: int, widths: list[int]) -> UpLevel:
        """Each block takes what came before it, and an output of the way down: the last of them the level above's."""
        before, outputs = widths[level : level + 2]
        below = widths[min(level + 2, len(widths) - 1)]
        hidden = [below] + [outputs] * self.settings.num_res_blocks
        skipped = [outputs] * self.settings.num_res_blocks + [before]
        layers = self._layers(level, [a + b for a, b in zip(hidden, skipped, strict=True)], outputs)
        return UpLevel(*layers, Upsample(outputs, convolves=self.settings.resamp_with_conv) if level else None)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """x (n, C, H, W), t (n,) float32, y (n,) int64 → (n, out_ch, H, W)."""
        time = self.temb(t)
        skipped = [self.conv_in(x)]
        for level in self.down:
            skipped += level(skipped[-1], time)
        hidden = self.mid(skipped[-1], time)
        for level in reversed(self.up):
            hidden = level(hidden, time, skipped)
        result: Tensor = self.conv_out(silu(self.norm_out(hidden)))
        return result
