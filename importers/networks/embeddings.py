"""The sinusoidal embedding of a time that most of these networks begin with."""

import math

import torch
from torch import Tensor, nn


class TimeEmbedding(nn.Module):
    """t (n,) → (n, width): sines, then cosines, of t at frequencies from 1 to 1/10,000, both included.

    A zero ends it where `width` is odd. As in the code of Ho et al. 2020 (arXiv 2006.11239), and of all after it.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        # Computed once, on the CPU: the last bit of a frequency, times 1000, is more than the networks may be off.
        exponents = torch.arange(half, dtype=torch.float32, device="cpu") * -(math.log(10_000) / (half - 1))
        self.frequencies: Tensor
        self.register_buffer("frequencies", exponents.exp(), persistent=False)
        self.odd = width % 2

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None] * self.frequencies
        waves = [angles.sin(), angles.cos()]
        return torch.cat([*waves, torch.zeros_like(angles[:, :1])] if self.odd else waves, dim=1)
