"""The adversarial objective: real and generated pairs of neighbouring noise levels, and the losses of both players."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn.functional import softplus

from models.ddgan.network import Discriminator, Network
from models.ddgan.plan import large_steps, posterior_plan
from models.schedules import Vector

R1_WEIGHT = 0.3  # γ of the gradient penalty
BETAS = (0.0, 0.99)
DISCRIMINATOR_RATE = 200.0  # times the generator's: its heads are fresh, and the generator begins near its end

RECOMMENDED_STEPS = 4
SCHEDULE: dict[str, Any] = {"alphas_cumprod": large_steps(4).tolist()}
OBJECTIVE: dict[str, Any] = {"discriminator_batches": 300, "anchor": 0.5}


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
        self.angle = torch.from_numpy(np.arccos(np.sqrt([1.0, *alphas_cumprod]))).float().to(device)
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

    def generated(self, network: Network, real: Pair, x: Tensor, generator: Generator) -> tuple[Pair, Tensor]:
        """The pair with x_s drawn from q(x_s | x_t, x0) for the generator's x0, and how far x_s is from that of x.

        A mean square: the noise is the same.
        """
        device = real.t.device
        z = torch.randn((len(real.t), network.z_dim), generator=generator, device=device) if network.z_dim else None
        x0 = network(real.x_t, real.t.float(), real.y, z)
        noise = torch.randn(x0.shape, generator=generator, device=device)
        x_s = self.x_from_x[real.t] * real.x_t + self.x_from_x0[real.t] * x0 + self.noise_std[real.t] * noise
        error = (self.x_from_x0[real.t] * (x0 - x)).square().mean()
        return real._replace(x_s=x_s), error

    def renoised(self, pair: Pair, share: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """x_s noised by a `share` (n,) of the way to x_t, and its angle (n,): ᾱ = cos² of it."""
        start, end = self.angle[pair.t], self.angle[pair.t + 1]
        angle = start + share * (end - start)
        alpha = angle.cos() / start.cos()
        sigma = (angle.sin().square() - (alpha * start.sin()).square()).clamp(min=0).sqrt()
        return alpha.view(-1, 1, 1, 1) * pair.x_s + sigma.view(-1, 1, 1, 1) * noise, angle


def discriminator_loss(real: Tensor, generated: Tensor) -> Tensor:
    """The non-saturating loss of D of its logits, a mean over the batch and the heads (eq. 5)."""
    return (softplus(-real) + softplus(generated)).mean()


def generator_loss(generated: Tensor) -> Tensor:
    """The non-saturating loss of G of D's logits, a mean over the batch and the heads (eq. 7)."""
    return softplus(-generated).mean()


def r1_penalty(logits: Tensor, features: list[Tensor]) -> Tensor:
    """(γ/2)·E‖∇ D‖² with respect to the features of real pairs, a mean over the heads.

    (Mescheder et al. 2018, arXiv 1801.04406, eq. 9; on features as Sauer et al. 2023, arXiv 2311.17042, section 3.2.)
    """
    gradients = torch.autograd.grad(logits.sum(), features, create_graph=True)
    norms = [gradient.float().square().sum(dim=(1, 2, 3)).mean() for gradient in gradients]
    return R1_WEIGHT / 2 * torch.stack(norms).mean()


class Objective:
    """See `models.training_loop.Objective`. The discriminator is alone for the first `discriminator_batches`; from then
    on each batch is an update of each player.

    A generator that begins with a DDIM's weights is too good for a discriminator without a start on it. `anchor` weighs
    the squared error of x_s, which keeps the generator near the data that x_t is from (Xu et al. 2023, arXiv
    2311.09257, section 3.2). The discriminator sees x_s noised further (Wang et al. 2023, arXiv 2206.02262): the clean
    image alone shows its encoder little more than texture.
    """

    def __init__(self, network: Network, learning_rate: float, *, discriminator_batches: int, anchor: float) -> None:
        self.network = network
        device = network.alpha.device
        self.diffusion = Diffusion(np.array(SCHEDULE["alphas_cumprod"]), device)
        self.discriminator = Discriminator(network).to(device)
        self.discriminator_batches, self.anchor = discriminator_batches, anchor
        self.modules = {"network": network, "discriminator": self.discriminator}
        self.optimizers = {
            "network": torch.optim.Adam(network.parameters(), lr=learning_rate, betas=BETAS),
            "discriminator": torch.optim.Adam(self.discriminator.heads.parameters(), lr=learning_rate, betas=BETAS),
        }

    def step(self, x: Tensor, y: Tensor, generator: Generator) -> float:
        """Returns the discriminator's loss."""
        for group in self.optimizers["discriminator"].param_groups:
            group["lr"] *= DISCRIMINATOR_RATE
        both = int(self.discriminator.batches) >= self.discriminator_batches
        self.discriminator.batches += 1
        real = self.diffusion.real(x, y, generator)
        share = (2 * torch.rand(len(y), generator=generator, device=y.device) - 1).clamp(min=0)  # of half of them none
        noise = torch.randn(x.shape, generator=generator, device=y.device)

        def features(pair: Pair) -> list[Tensor]:
            return self.discriminator.features(*self.diffusion.renoised(pair, share, noise), y)

        of_t = self.discriminator.features(real.x_t, self.diffusion.angle[real.t + 1], y)
        with torch.set_grad_enabled(both):
            pair, anchored = self.diffusion.generated(self.network, real, x, generator)
            generated = features(pair)
        loss = self._discriminate(features(real), [level.detach() for level in generated], of_t, y)
        if both:
            self.discriminator.heads.requires_grad_(False)
            adversarial = generator_loss(self.discriminator(generated, of_t, y))
            self._update("network", adversarial + self.anchor * anchored)
            self.discriminator.heads.requires_grad_(True)
        return loss

    def _discriminate(self, real: list[Tensor], generated: list[Tensor], of_t: list[Tensor], y: Tensor) -> float:
        """Updates the discriminator by the features of real x_s, of generated ones and of x_t; returns its loss."""
        real = [level.requires_grad_() for level in real]
        logits = self.discriminator(real, of_t, y)
        loss = discriminator_loss(logits, self.discriminator(generated, of_t, y))
        self._update("discriminator", loss + r1_penalty(logits, real))
        return loss.item()

    def _update(self, player: str, loss: Tensor) -> None:
        self.optimizers[player].zero_grad()
        loss.backward()
        self.optimizers[player].step()

    def schedule(self, _: Network) -> dict[str, Any]:
        """Fixed."""
        return SCHEDULE
