"""Sinusoidal embeddings of a time."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_PERIOD = 10_000


def transformer_embedding(t: Tensor, width: int) -> Tensor:
    """(n,) → (n, width): sines and then cosines of frequencies from 1 to 1/10,000, both included (Ho et al. 2020's).

    An odd width ends with a zero.
    """
    half = width // 2
    frequencies = torch.exp(torch.arange(half, device=t.device) * -(math.log(MAX_PERIOD) / (half - 1)))
    angles = t.float()[:, None] * frequencies
    return F.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, width % 2))


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """(n,) → (n, width): cosines and then sines of frequencies from 1 down towards 1/10,000, which is left out.

    An odd width ends with a zero.
    """
    half = width // 2
    frequencies = torch.exp(-math.log(MAX_PERIOD) * torch.arange(half, device=t.device) / half)
    angles = t.float()[:, None] * frequencies
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, width % 2))
