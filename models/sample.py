"""Runs a plan in PyTorch, for looking at a network while it trains; the service has its own engine."""

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor, nn

from models.step import Plan, update


@torch.no_grad()
def sample(network: nn.Module, plan: Plan, y: Tensor, shape: tuple[int, int, int], latent: int, seed: int) -> Tensor:
    """What the plan ends at, (n, *shape), one a label of `y` (n,); `latent` is the length of the network's z."""
    generator = Generator().manual_seed(seed)
    x = torch.randn((len(y), *shape), generator=generator)
    x0 = torch.zeros_like(x)
    for k in plan:
        z = [torch.randn(len(y), latent, generator=generator)] if latent else []
        out = network(x, torch.full((len(y),), k.t), y, *z)
        x, x0 = update(k, x, out, x0, torch.randn(x.shape, generator=generator))
    return x


def grid(images: Tensor, columns: int) -> Image.Image:
    """A picture of images (n, C, H, W) in [−1, 1], row by row; n is a multiple of `columns`."""
    n, channels, height, width = images.shape
    pixels = ((images.clip(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
    tiles = pixels.reshape(n // columns, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    return Image.fromarray(
        np.ascontiguousarray(tiles.reshape(n // columns * height, columns * width, channels)).squeeze()
    )
