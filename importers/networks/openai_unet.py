"""OpenAI's U-Net (Dhariwal & Nichol 2021, arXiv 2105.05233), and latent diffusion's, which adds transformers to it."""

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from importers.networks.embeddings import timestep_embedding
from importers.networks.openai_blocks import (
    Attention,
    Downsample,
    Input,
    ResidualBlock,
    Stage,
    Upsample,
    enlarge,
    group_norm,
    shrink,
)
from importers.networks.spatial_transformer import SpatialTransformer


class Settings(BaseModel):
    """The original's arguments, with its names and defaults. A resolution here is a factor by which sides are smaller."""

    model_config = ConfigDict(frozen=True)

    in_channels: int = Field(ge=1)
    model_channels: int = Field(ge=1)
    out_channels: int = Field(ge=1)
    num_res_blocks: int = Field(ge=1)
    attention_resolutions: tuple[int, ...]
    channel_mult: tuple[float, ...] = Field((1, 2, 4, 8), min_length=1)
    conv_resample: bool = True
    num_classes: int | None = None
    num_heads: int = -1
    num_head_channels: int = -1  # −1: of num_heads
    num_heads_upsample: int = -1  # −1: as many as num_heads
    use_scale_shift_norm: bool = False
    resblock_updown: bool = False
    use_new_attention_order: bool = False
    use_spatial_transformer: bool = False
    transformer_depth: int = 1
    context_dim: int | None = None
    legacy: bool = True

    def heads(self, channels: int, *, up: bool) -> int:
        """How many heads attention of so many channels has, on the way up or before it."""
        heads = self.num_heads
        if self.num_head_channels != -1:
            heads = channels // self.num_head_channels
        elif up and self.legacy and not self.use_spatial_transformer and self.num_heads_upsample != -1:
            heads = self.num_heads_upsample
        if heads < 1:
            raise ValueError(f"attention of {channels} channels has no head: num_heads or num_head_channels is wrong")
        return heads


class UNet(nn.Module):
    """out(x, t, label, context): what is predicted for x at timestep t; t need not be whole."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        width, embedding = settings.model_channels, 4 * settings.model_channels
        self.time_embed = nn.Sequential(nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        if settings.num_classes is not None:
            self.label_emb = nn.Embedding(settings.num_classes, embedding)
        skipped: list[int] = []
        self.input_blocks = self._way_down(skipped)
        last = skipped[-1]
        attention = self._attention(last, up=False)
        self.middle_block = Stage(self._block(last, last), attention, self._block(last, last))
        self.output_blocks = self._way_up(skipped)
        first = int(width * settings.channel_mult[0])
        self.out = nn.Sequential(
            group_norm(first), nn.SiLU(), nn.Conv2d(first, settings.out_channels, 3, padding=1)
        )

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """x (n, C, H, W), t (n,) float32, label (n,) int64, context (n, 1, context_dim) → (n, out_channels, H, W)."""
        embedding = self.time_embed(timestep_embedding(t, self.settings.model_channels))
        if label is not None:
            embedding = embedding + self.label_emb(label)
        skipped: list[Tensor] = []
        hidden = x
        for stage in self.input_blocks:
            hidden = stage(hidden, embedding, context)
            skipped.append(hidden)
        hidden = self.middle_block(hidden, embedding, context)
        for stage in self.output_blocks:
            hidden = stage(torch.cat([hidden, skipped.pop()], dim=1), embedding, context)
        result: Tensor = self.out(hidden)
        return result

    def _block(self, inputs: int, outputs: int) -> ResidualBlock:
        settings = self.settings
        return ResidualBlock(inputs, outputs, 4 * settings.model_channels, modulates=settings.use_scale_shift_norm)

    def _attention(self, channels: int, *, up: bool) -> nn.Module:
        settings = self.settings
        heads = settings.heads(channels, up=up)
        if not settings.use_spatial_transformer:
            order = "three first" if settings.use_new_attention_order else "heads first"
            return Attention(channels, heads, order)
        assert settings.context_dim is not None
        by_heads = settings.legacy or settings.num_head_channels == -1
        width = channels // heads if by_heads else settings.num_head_channels
        return SpatialTransformer(channels, heads, width, settings.transformer_depth, settings.context_dim)

    def _resample(self, channels: int, *, up: bool) -> nn.Module:
        """The layer that doubles or halves the sides."""
        settings = self.settings
        if settings.resblock_updown:
            embedding = 4 * settings.model_channels
            return ResidualBlock(
                channels,
                channels,
                embedding,
                modulates=settings.use_scale_shift_norm,
                resample=enlarge if up else shrink,
            )
        layer = Upsample if up else Downsample
        return layer(channels, convolves=settings.conv_resample)

    def _way_down(self, skipped: list[int]) -> nn.ModuleList:
        """Its stages; appends the channels of each to `skipped`."""
        settings = self.settings
        channels = int(settings.channel_mult[0] * settings.model_channels)
        stages = [Stage(Input(settings.in_channels, channels, 3, padding=1))]
        skipped.append(channels)
        for level, multiple in enumerate(settings.channel_mult):
            outputs = int(multiple * settings.model_channels)
            for _ in range(settings.num_res_blocks):
                layers: list[nn.Module] = [self._block(channels, outputs)]
                if 2**level in settings.attention_resolutions:
                    layers.append(self._attention(outputs, up=False))
                stages.append(Stage(*layers))
                skipped.append(channels := outputs)
            if level + 1 < len(settings.channel_mult):
                stages.append(Stage(self._resample(channels, up=False)))
                skipped.append(channels)
        return nn.ModuleList(stages)

    def _way_up(self, skipped: list[int]) -> nn.ModuleList:
        """Its stages; each takes one of `skipped`, the last one first."""
        settings = self.settings
        channels = skipped[-1]
        stages = []
        for level, multiple in reversed(list(enumerate(settings.channel_mult))):
            outputs = int(multiple * settings.model_channels)
            for i in range(settings.num_res_blocks + 1):
                layers: list[nn.Module] = [self._block(channels + skipped.pop(), outputs)]
                channels = outputs
                if 2**level in settings.attention_resolutions:
                    layers.append(self._attention(channels, up=True))
                if level and i == settings.num_res_blocks:
                    layers.append(self._resample(channels, up=True))
                stages.append(Stage(*layers))
        return nn.ModuleList(stages)
