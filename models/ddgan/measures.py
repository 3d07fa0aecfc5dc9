"""The figures of `./run evaluate` for a denoising diffusion GAN: the spread of x0 over z."""

from typing import Any

import torch
from torch import Generator, Tensor

from models.ddgan.network import Network

IMAGES = 200
STYLES = 16  # draws of z for each image


@torch.no_grad()
def evaluate(network: Network, x: Tensor, y: Tensor) -> dict[str, Any]:
    """The standard deviation of x0 over z, from one x_t of each of the first IMAGES of x (n, C, H, W), classes y (n,).

    By timestep, counted from 1 as in the paper: `pixels` is its root mean square over the pixels, and `largest` that of
    the pixel with the largest. Both are means over the images.
    """
    x, y = x[:IMAGES], y[:IMAGES].repeat_interleave(STYLES)
    generator = Generator().manual_seed(0)
    spread = {}
    for timestep, (alpha, sigma) in enumerate(zip(network.alpha, network.sigma, strict=True)):
        x_t = alpha * x + sigma * torch.randn(x.shape, generator=generator)
        z = torch.randn((len(y), network.z_dim), generator=generator) if network.z_dim else None
        x0 = network(x_t.repeat_interleave(STYLES, dim=0), torch.full((len(y),), float(timestep)), y, z)
        deviation = x0.unflatten(0, (len(x), STYLES)).std(dim=1).flatten(1)
        spread[f"t = {timestep + 1}"] = {
            "pixels": deviation.square().mean(dim=1).sqrt().mean().item(),
            "largest": deviation.amax(dim=1).mean().item(),
        }
    return {"spread": spread}
