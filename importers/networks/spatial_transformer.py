"""The transformer over pixels of latent diffusion's U-Net. Attributes bear the names of the published weights."""

import math

from torch import Tensor, nn
from torch.nn.functional import gelu


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels that attend to a context, beside a way past them.

    Rombach et al. 2022 (arXiv 2112.10752), appendix E.2.1.
    """

    def __init__(self, channels: int, heads: int, head_channels: int, depth: int, context: int) -> None:
        super().__init__()
        width = heads * head_channels
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, width, 1)
        self.transformer_blocks = nn.ModuleList(TransformerBlock(width, heads, context) for _ in range(depth))
        self.proj_out = nn.Conv2d(width, channels, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x (n, channels, H, W), context (n, tokens, context) → like x."""
        tokens = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        result: Tensor = x + self.proj_out(tokens.transpose(1, 2).unflatten(2, x.shape[2:]))
        return result


class TransformerBlock(nn.Module):
    """Self-attention, attention to the context, and a gated layer, each beside a way past it."""

    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = TokenAttention(width, width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = TokenAttention(width, context, heads)
        self.norm3 = nn.LayerNorm(width)
        self.ff = GatedLayer(width)

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        """tokens (n, H·W, width), context (n, others, context)."""
        hidden = self.norm1(tokens)
        tokens = tokens + self.attn1(hidden, hidden)
        tokens = tokens + self.attn2(self.norm2(tokens), context)
        result: Tensor = tokens + self.ff(self.norm3(tokens))
        return result


class TokenAttention(nn.Module):
    """Attention of tokens (n, a, width) to others (n, b, others)."""

    def __init__(self, width: int, others: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(others, width, bias=False)
        self.to_v = nn.Linear(others, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def forward(self, tokens: Tensor, others: Tensor) -> Tensor:
        projections = self.to_q(tokens), self.to_k(others), self.to_v(others)
        query, key, value = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in projections)
        weights = (query @ key.transpose(2, 3) / math.sqrt(query.shape[3])).softmax(dim=3)
        result: Tensor = self.to_out((weights @ value).transpose(1, 2).flatten(2))
        return result


class GatedLayer(nn.Module):
    """A GEGLU of four times the width (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(Gate(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.net(x)
        return result


class Gate(nn.Module):
    """A linear map, times the GELU of another."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.proj = nn.Linear(inputs, 2 * outputs)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        result: Tensor = value * gelu(gate)
        return result
