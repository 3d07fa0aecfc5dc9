"""Latent diffusion's U-Net of classes (Rombach et al. 2022, arXiv 2112.10752): OpenAI's, with transformers in it."""

from dataclasses import dataclass

from torch import Tensor, nn

from importers.networks.openai_unet import Heads, Layout, UNet
from importers.networks.spatial_transformer import SpatialTransformer


@dataclass(frozen=True)
class LatentLayout(Layout):
    """The architecture. `head_width` of None shares a level's channels among its heads."""

    labels: int = 1  # rows of the embedding that the transformers attend to
    context_width: int = 1
    transformer_depth: int = 1
    head_width: int | None = None


class LatentUNet(UNet):
    """x (n, C, H, W), t (n,) as the original network takes it, y (n,) → (n, D, H, W).

    The label's embedding is the one token that the transformers attend to. `embedding` is `cond_stage_model.embedding`.
    """

    layout: LatentLayout

    def __init__(self, layout: LatentLayout, heads: Heads) -> None:
        super().__init__(layout, heads)
        self.embedding = nn.Embedding(layout.labels, layout.context_width)

    def attention(self, channels: int, *, up: bool) -> nn.Module:
        heads = self.heads.of(channels, up=False)
        width = self.layout.head_width or channels // heads
        return SpatialTransformer(channels, heads, width, self.layout.transformer_depth, self.layout.context_width)

    def context(self, y: Tensor) -> Tensor:
        """(n, 1, context_width); a network without a label for "no class" takes its last one for it."""
        token: Tensor = self.embedding(y.clamp(max=self.layout.labels - 1))
        return token[:, None]
