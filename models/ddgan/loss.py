"""The adversarial objective: real and generated pairs of neighbouring noise levels, and the losses of both players."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import softplus

from models.ddgan.network import Discriminator, Network
from models.ddgan.plan import large_steps, posterior_plan
from models.schedules import Vector

R1_WEIGHT = 0.3  # γ of the gradient penalty
R1_EVERY = 8  # batches from one penalty to the next, and its factor
BETAS = (0.0, 0.99)
DISCRIMINATOR_RATE = 25.0  # times the generator's (Heusel et al. 2017, arXiv 1706.08500)

RECOMMENDED_STEPS = 4
SCHEDULE: dict[str, Any] = {"alphas_cumprod": large_steps(4).tolist()}
OBJECTIVE: dict[str, Any] = {"discriminator_batches": 400}


def network_settings(_size: int) -> dict[str, Any]:
    """See `models.training_loop.Objective`."""
    return {"channels": [32, 64, 96], "latent": 64}


class Pair(NamedTuple):
    """x_s and x_t (n, C, H, W) of neighbouring noise levels, the timestep t (n,) int64 and the labels y (n,)."""

    x_s: Tensor
    x_t: Tensor
    t: Tensor
    y: Tensor


class Diffusion:
    """The few large steps between data and noise (Xiao et al. 2022, arXiv 2112.07804, eqs. 1, 2 and 4)."""

    def __init__(self, alphas_cumprod: Vector, device: torch.device) -> None:
        def rows(values: Vector) -> Tensor:
            """A float32 column of coefficients that broadcasts against images."""
            return torch.from_numpy(values).float().view(-1, 1, 1, 1).to(device)

        abar_s = np.insert(alphas_cumprod[:-1], 0, 1.0)
        self.alpha_s, self.sigma_s = rows(np.sqrt(abar_s)), rows(np.sqrt(1 - abar_s))
        self.alpha_jump = rows(np.sqrt(alphas_cumprod / abar_s))
        self.sigma_jump = rows(np.sqrt(1 - alphas_cumprod / abar_s))
        by_timestep = posterior_plan({"alphas_cumprod": alphas_cumprod}, len(alphas_cumprod))[::-1]
        self.x_from_x = rows(np.array([k.x_from_x for k in by_timestep]))
        self.x_from_x0 = rows(np.array([k.x_from_x0 for k in by_timestep]))
        self.noise_std = rows(np.array([k.noise_std for k in by_timestep]))

    def real(self, x: Tensor, y: Tensor, generator: Generator) -> Pair:
        """A pair from q(x_s, x_t | x) at a random t for each image."""
        t = torch.randint(len(self.alpha_s), (len(x),), generator=generator, device=x.device)
        first, second = (torch.randn(x.shape, generator=generator, device=x.device) for _ in range(2))
        x_s = self.alpha_s[t] * x + self.sigma_s[t] * first
        x_t = self.alpha_jump[t] * x_s + self.sigma_jump[t] * second
        return Pair(x_s, x_t, t, y)

    def generated(self, network: Network, real: Pair, generator: Generator) -> Pair:
        """The pair with x_s drawn from q(x_s | x_t, x0) for the generator's x0."""
        device = real.t.device
        z = torch.randn((len(real.t), network.z_dim), generator=generator, device=device) if network.z_dim else None
        x0 = network(real.x_t, real.t.float(), real.y, z)
        noise = torch.randn(x0.shape, generator=generator, device=device)
        x_s = self.x_from_x[real.t] * real.x_t + self.x_from_x0[real.t] * x0 + self.noise_std[real.t] * noise
        return real._replace(x_s=x_s)


def discriminator_loss(discriminator: Discriminator, real: Pair, generated: Pair) -> Tensor:
    """The non-saturating loss of D, a mean over the batch (eq. 5)."""
    return (softplus(-discriminator(*real)) + softplus(discriminator(*generated))).mean()


def generator_loss(discriminator: Discriminator, generated: Pair) -> Tensor:
    """The non-saturating loss of G, a mean over the batch (eq. 7)."""
    return softplus(-discriminator(*generated)).mean()


def r1_penalty(discriminator: Discriminator, real: Pair) -> Tensor:
    """(γ/2)·E‖∇ D(x_s, x_t, t, y)‖² with respect to a real x_s (Mescheder et al. 2018, arXiv 1801.04406, eq. 9)."""
    x_s = real.x_s.detach().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):  # the only attention kernel that can be differentiated twice
        (gradient,) = torch.autograd.grad(discriminator(*real._replace(x_s=x_s)).sum(), x_s, create_graph=True)
    return R1_WEIGHT / 2 * gradient.square().sum(dim=(1, 2, 3)).mean()


class Objective:
    """See `models.training_loop.Objective`. The discriminator is alone for the first `discriminator_batches`; from then
    on each batch is an update of each player. The penalty comes every R1_EVERY batches.

    A generator that begins with a DDIM's weights is too good for a discriminator without a start on it.
    """

    def __init__(self, network: Network, learning_rate: float, *, discriminator_batches: int) -> None:
        self.network = network
        device = network.alpha.device
        self.diffusion = Diffusion(np.array(SCHEDULE["alphas_cumprod"]), device)
        self.discriminator = Discriminator(network).to(device)
        self.discriminator_batches = discriminator_batches
        self.modules = {"network": network, "discriminator": self.discriminator}
        self.optimizers = {
            name: torch.optim.Adam(module.parameters(), lr=learning_rate, betas=BETAS)
            for name, module in self.modules.items()
        }

    def step(self, x: Tensor, y: Tensor, generator: Generator) -> float:
        """Returns the discriminator's loss."""
        for group in self.optimizers["discriminator"].param_groups:
            group["lr"] *= DISCRIMINATOR_RATE
        batches = int(self.discriminator.batches)
        self.discriminator.batches += 1
        both = batches >= self.discriminator_batches
        real = self.diffusion.real(x, y, generator)
        with torch.set_grad_enabled(both):
            generated = self.diffusion.generated(self.network, real, generator)
        loss = discriminator_loss(self.discriminator, real, generated._replace(x_s=generated.x_s.detach()))
        penalty = R1_EVERY * r1_penalty(self.discriminator, real) if batches % R1_EVERY == 0 else 0.0
        self._update("discriminator", loss + penalty)
        if both:
            self.discriminator.requires_grad_(False)
            self._update("network", generator_loss(self.discriminator, generated))
            self.discriminator.requires_grad_(True)
        return loss.item()

    def _update(self, player: str, loss: Tensor) -> None:
        self.optimizers[player].zero_grad()
        loss.backward()
        self.optimizers[player].step()

    def schedule(self, _: Network) -> dict[str, Any]:
        """Fixed."""
        return SCHEDULE
