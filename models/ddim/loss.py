"""The noise-prediction objective."""

import torch
from torch import Generator, Tensor, nn


def loss(network: nn.Module, x: Tensor, y: Tensor, generator: Generator) -> Tensor:
    """L_γ with γ = 1 (Song et al. 2020, arXiv 2010.02502, eq. 5): E ‖ε − ε̂(α_t·x + σ_t·ε, t, y)‖², a mean over pixels.

    x (n, C, H, W) in [−1, 1]; the timesteps and the noise come from `generator`.
    """
    t = torch.randint(len(network.alpha), (len(x),), generator=generator)
    noise = torch.randn(x.shape, generator=generator)
    alpha, sigma = network.alpha[t].view(-1, 1, 1, 1), network.sigma[t].view(-1, 1, 1, 1)
    predicted = network(alpha * x + sigma * noise, t.float(), y)
    return (noise - predicted).square().mean()
