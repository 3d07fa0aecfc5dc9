"""The diffusion transformer (Peebles & Xie 2023, arXiv 2212.09748), by the names of its published weights."""

import math

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.functional import gelu

from importers.networks.openai_blocks import TimestepEmbedding

FREQUENCIES = 256  # of the timestep's embedding


class Settings(BaseModel):
    """What shapes the network; most of it can be read off its weights."""

    model_config = ConfigDict(frozen=True)

    input_size: int = Field(ge=1)  # height and width of a latent
    patch_size: int = Field(ge=1)
    in_channels: int = Field(ge=1)
    out_channels: int = Field(ge=1)  # twice in_channels with a learned variance
    hidden_size: int = Field(ge=1)
    depth: int = Field(ge=1)
    num_heads: int = Field(ge=1)
    mlp_width: int = Field(ge=1)
    labels: int = Field(ge=1)  # rows of the label embedding


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (n, tokens, width) by a row's shift and scale (n, width)."""
    return x * (1 + scale[:, None]) + shift[:, None]


def layer_norm(width: int) -> nn.LayerNorm:
    """Without weights, which the modulation stands for."""
    return nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)


class Patches(nn.Module):
    """(n, C, H, W) → (n, tokens, width), a token a patch."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        size = settings.patch_size
        self.proj = nn.Conv2d(settings.in_channels, settings.hidden_size, size, stride=size)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.proj(x).flatten(2).transpose(1, 2)
        return result


class TimestepEmbedder(nn.Module):
    """(n,) → (n, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = TimestepEmbedding(FREQUENCIES)
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        result: Tensor = self.mlp(self.embedding(t))
        return result


class LabelEmbedder(nn.Module):
    """(n,) int64 → (n, width)."""

    def __init__(self, labels: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(labels, width)

    def forward(self, y: Tensor) -> Tensor:
        result: Tensor = self.embedding_table(y)
        return result


class Attention(nn.Module):
    """Self-attention of tokens (n, tokens, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(2, 3) / math.sqrt(query.shape[3])).softmax(dim=3)
        result: Tensor = self.proj((weights @ value).transpose(1, 2).flatten(2))
        return result


class Mlp(nn.Module):
    """Two linear layers with a GELU between them, of the approximation by a tanh."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc2(gelu(self.fc1(x), approximate="tanh"))
        return result


class Block(nn.Module):
    """A transformer block whose norms and gates the condition (n, width) sets (adaLN-Zero, section 3.2)."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        width = settings.hidden_size
        self.norm1 = layer_norm(width)
        self.attn = Attention(width, settings.num_heads)
        self.norm2 = layer_norm(width)
        self.mlp = Mlp(width, settings.mlp_width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = self.adaLN_modulation(condition).chunk(6, dim=1)
        x = x + gate[:, None] * self.attn(modulate(self.norm1(x), shift, scale))
        result: Tensor = x + gate_mlp[:, None] * self.mlp(modulate(self.norm2(x), shift_mlp, scale_mlp))
        return result


class FinalLayer(nn.Module):
    """Tokens (n, tokens, width) → (n, tokens, patch_size²·out_channels)."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        width = settings.hidden_size
        self.norm_final = layer_norm(width)
        self.linear = nn.Linear(width, settings.patch_size**2 * settings.out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(condition).chunk(2, dim=1)
        result: Tensor = self.linear(modulate(self.norm_final(x), shift, scale))
        return result


class Transformer(nn.Module):
    """out(x_t, t, y): ε̂, and with a learned variance as many channels of that behind it."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        if settings.input_size % settings.patch_size or settings.hidden_size % settings.num_heads:
            raise ValueError("a latent divides into whole patches, and the width among the heads")
        self.settings = settings
        width, grid = settings.hidden_size, settings.input_size // settings.patch_size
        self.x_embedder = Patches(settings)
        self.t_embedder = TimestepEmbedder(width)
        self.y_embedder = LabelEmbedder(settings.labels, width)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid**2, width))  # sines and cosines, which the file has
        self.blocks = nn.ModuleList(Block(settings) for _ in range(settings.depth))
        self.final_layer = FinalLayer(settings)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """x (n, C, H, W), t (n,) float32, y (n,) int64 → (n, out_channels, H, W)."""
        size = self.settings.patch_size
        condition = self.t_embedder(t) + self.y_embedder(y)
        tokens = self.x_embedder(x) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens, condition)
        grid = self.settings.input_size // size
        patches = self.final_layer(tokens, condition).unflatten(2, (size, size, -1)).unflatten(1, (grid, grid))
        return patches.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)
