"""The variational bound, in bits per dimension, and how its gradient trains the schedule."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor, nn

from models.vdm.network import GAMMA_MAX, GAMMA_MIN, KNOTS, Network, alpha_sigma

RECOMMENDED_STEPS = 20
SCHEDULE: dict[str, Any] = {"gamma": np.linspace(GAMMA_MIN, GAMMA_MAX, KNOTS).tolist()}
OBJECTIVE: dict[str, Any] = {}

MAX_GRADIENT_NORM = 1.0
LEVELS = 256  # values of a pixel
SUBSAMPLE = 32  # one image in 32 trains the prior and reconstruction terms, whose gradients reach two scalars only


def network_settings(_size: int) -> dict[str, Any]:
    """See `models.training_loop.Objective`."""
    return {"channels": [32, 64, 96], "fourier": True}


class Bound(NamedTuple):
    """The three terms of −log p(x | y), each (n,) in bits per dimension."""

    prior: Tensor
    reconstruction: Tensor
    diffusion: Tensor


def bound(network: Network, x: Tensor, y: Tensor, generator: Generator, *, timesteps: int | None = None) -> Bound:
    """An unbiased estimate of the variational bound (Kingma et al. 2021, arXiv 2107.00630, eqs. 11, 13 and 17).

    x (n, C, H, W), the LEVELS pixel values spread evenly over [−1, 1]; y (n,). `timesteps` None means continuous time.
    """
    u, eps = _times_and_noise(x, generator)
    if timesteps is None:
        h, dh = network.schedule.unit(u)
        diffusion = _continuous(network, x, y, eps, h, dh)
    else:
        s = (u * timesteps).floor() / timesteps
        gamma_s, gamma_t = network.schedule(s), network.schedule(s + 1 / timesteps)
        diffusion = timesteps / 2 * torch.expm1(gamma_t - gamma_s) * _squared_error(network, x, y, eps, gamma_t)
    return Bound(*(_bits(term, x) for term in (*_prior_and_reconstruction(network, x, generator), diffusion)))


def backward(network: Network, x: Tensor, y: Tensor, generator: Generator) -> Bound:
    """Adds the gradients of the continuous-time bound to the parameters' `grad`; returns the terms, detached.

    The network and the endpoints γ_0 and γ_1 get the gradient of the bound. The schedule's shape between them does not
    change the bound's expectation. It gets the gradient of the variance, 2·L·∇L for each image (appendix I.2). It acts
    through h(t) and h'(t) alone: with the graph cut there, one backward pass through the network serves both.
    """
    u, eps = _times_and_noise(x, generator)
    h, dh = network.schedule.unit(u)
    h_cut, dh_cut = h.detach().requires_grad_(), dh.detach().requires_grad_()
    diffusion = _bits(_continuous(network, x, y, eps, h_cut, dh_cut), x)
    subsample = x[: max(1, len(x) // SUBSAMPLE)]
    prior, reconstruction = (_bits(term, x) for term in _prior_and_reconstruction(network, subsample, generator))
    (prior.mean() + reconstruction.mean() + diffusion.mean()).backward()
    assert h_cut.grad is not None
    assert dh_cut.grad is not None
    weight = 2 * diffusion.detach()
    torch.autograd.backward([h, dh], [weight * h_cut.grad, weight * dh_cut.grad])
    return Bound(prior.detach(), reconstruction.detach(), diffusion.detach())


def _times_and_noise(x: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """A time in [0, 1) for each image, evenly spaced from one random start (appendix I.1), and ε shaped like x."""
    n, device = len(x), x.device
    u = (torch.rand(1, generator=generator, device=device) + torch.arange(n, device=device) / n) % 1
    return u, torch.randn(x.shape, generator=generator, device=device)


def _continuous(network: Network, x: Tensor, y: Tensor, eps: Tensor, h: Tensor, dh: Tensor) -> Tensor:
    """½·γ'(t)·‖ε − ε̂‖², in nats an image (eq. 17)."""
    span = network.schedule.gamma_1 - network.schedule.gamma_0
    return 0.5 * span * dh * _squared_error(network, x, y, eps, network.schedule.gamma_0 + span * h)


def _squared_error(network: Network, x: Tensor, y: Tensor, eps: Tensor, gamma: Tensor) -> Tensor:
    """‖ε − ε̂(z_t, γ_t, y)‖², summed over an image's dimensions."""
    alpha, sigma = alpha_sigma(gamma)
    return (eps - network(alpha * x + sigma * eps, gamma, y)).square().sum(dim=(1, 2, 3))


def _prior_and_reconstruction(network: Network, x: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """KL(q(z_1 | x) ‖ N(0, I)) and −log p(x | z_0), in nats an image.

    p(x | z_0) is, for each dimension, a softmax over the pixel values of the densities q(z_0 | value) (eq. 8).
    """
    alpha_1, sigma_1 = alpha_sigma(network.schedule.gamma_1)
    variance = sigma_1**2
    prior = 0.5 * (variance + (alpha_1 * x) ** 2 - 1 - variance.log()).sum(dim=(1, 2, 3))
    # z_0 = α_0·x + σ_0·ε divided by α_0 is x + e^{γ_0/2}·ε, and the pixel values stay as they are.
    deviation = torch.exp(0.5 * network.schedule.gamma_0)
    eps = torch.randn(x.shape, generator=generator, device=x.device)
    values = torch.linspace(-1, 1, LEVELS, device=x.device)
    logits = -0.5 * (((x + deviation * eps)[..., None] - values) / deviation).square()
    return prior, (logits.logsumexp(dim=-1) + 0.5 * eps.square()).sum(dim=(1, 2, 3))


def _bits(nats: Tensor, x: Tensor) -> Tensor:
    """Nats an image as bits per dimension."""
    return nats / (math.log(2) * x[0].numel())


class Objective:
    """See `models.training_loop.Objective`."""

    def __init__(self, network: Network, learning_rate: float) -> None:
        self.network = network
        groups: list[dict[str, Any]] = [
            {"params": network.unet.parameters()},
            {"params": network.schedule.parameters(), "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=learning_rate, weight_decay=1e-4)
        self.modules = {"network": network}
        self.optimizers = {"network": self.optimizer}

    def step(self, x: Tensor, y: Tensor, generator: Generator) -> float:
        """Returns the bound in bits per dimension."""
        self.optimizer.zero_grad()
        terms = backward(self.network, x, y, generator)
        nn.utils.clip_grad_norm_(self.network.unet.parameters(), MAX_GRADIENT_NORM)
        nn.utils.clip_grad_norm_(self.network.schedule.parameters(), MAX_GRADIENT_NORM)
        self.optimizer.step()
        return sum(term.mean().item() for term in terms)

    def schedule(self, network: Network) -> dict[str, Any]:
        """As learned."""
        return network.noise_schedule()
