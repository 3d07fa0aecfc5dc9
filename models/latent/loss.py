"""Trains in three phases: the autoencoder, then the moments of its latents, then a diffusion model of the latents."""

import math
from typing import Any

import torch
from torch import Generator, Tensor, nn

from models.ddim import loss as ddim
from models.latent.network import REDUCTION, Network

RECOMMENDED_STEPS = 20
Z_CHANNELS = 4  # of a latent
SCHEDULE: dict[str, Any] = {**ddim.SCHEDULE, "clip": 1.0}
OBJECTIVE: dict[str, Any] = {"alpha": 10.0, "autoencoder_images": 120_000}

MOMENTS_IMAGES = 10_000  # over which the moments are computed


def network_settings(size: int) -> dict[str, Any]:
    """See `models.training_loop.Objective`."""
    reduced = size // REDUCTION
    return {"state_shape": [Z_CHANNELS, reduced, reduced], "width": 32, "tokens_width": 128, "blocks": 4}


def autoencoder_errors(network: Network, x: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """‖z − e(g(z))‖² for z from N(0, I), and ‖g(e(x)) − x‖², each (n,) and a mean over its dimensions.

    Latent consistency, which its source calls the contrastive term, and reconstruction. x (n, C, H, W) in [−1, 1].
    """
    latents = network.encoder(x)
    z = torch.randn(latents.shape, generator=generator, device=x.device)
    consistency = z - network.encoder(network.decoder(z))
    reconstruction = network.decoder(latents) - x
    return consistency.square().flatten(1).mean(dim=1), reconstruction.square().flatten(1).mean(dim=1)


def autoencoder_loss(network: Network, x: Tensor, alpha: float, generator: Generator) -> Tensor:
    """L = E_z‖z − e(g(z))‖² + α·E_x‖g(e(x)) − x‖²; arguments as above."""
    consistency, reconstruction = autoencoder_errors(network, x, generator)
    return consistency.mean() + alpha * reconstruction.mean()


class Progress(nn.Module):
    """The number of images that training has seen, and the running moments of the latents by channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.images: Tensor
        self.count: Tensor
        self.total: Tensor
        self.squares: Tensor
        self.low: Tensor
        self.high: Tensor
        self.register_buffer("images", torch.zeros((), dtype=torch.int64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        for name in ("total", "squares", "low", "high"):
            self.register_buffer(name, torch.zeros(channels, dtype=torch.float64))

    def add(self, latents: Tensor) -> None:
        """Adds latents (n, C, H, W) to the moments."""
        values = latents.double().transpose(0, 1).flatten(1)
        self.count += values.shape[1]
        self.total += values.sum(dim=1)
        self.squares += values.square().sum(dim=1)
        self.low = torch.minimum(self.low, values.amin(dim=1))
        self.high = torch.maximum(self.high, values.amax(dim=1))

    def normalise(self, network: Network) -> None:
        """Sets the network's mean, deviation and bound from the moments."""
        mean = self.total / self.count
        deviation = (self.squares / self.count - mean**2).sqrt()
        network.mean.copy_(mean.view(-1, 1, 1))
        network.deviation.copy_(deviation.view(-1, 1, 1))
        network.bound.copy_((torch.maximum(self.high - mean, mean - self.low) / deviation).max())


class Objective:
    """See `models.training_loop.Objective`. The diffusion model's part is DDIM's, on latents."""

    def __init__(self, network: Network, learning_rate: float, *, alpha: float, autoencoder_images: int) -> None:
        self.network = network
        self.diffusion = ddim.Objective(network, learning_rate)  # its optimizer also has the autoencoder's weights
        self.autoencoder = nn.ModuleList([network.encoder, network.decoder])
        self.progress = Progress(len(network.mean)).to(network.mean.device)
        self.modules: dict[str, nn.Module] = {"network": network, "progress": self.progress}
        self.optimizers = self.diffusion.optimizers
        self.alpha = alpha
        self.autoencoder_images = autoencoder_images

    def step(self, x: Tensor, y: Tensor, generator: Generator) -> float:
        """Returns the loss of the current phase; 0 while the moments are computed."""
        images_before = int(self.progress.images)
        self.progress.images += len(x)
        self.autoencoder.requires_grad_(images_before < self.autoencoder_images)
        self.network.mixer.requires_grad_(images_before >= self.autoencoder_images)
        if images_before < self.autoencoder_images:
            for group in self.diffusion.optimizer.param_groups:
                group["lr"] *= 0.5 * (1 + math.cos(math.pi * images_before / self.autoencoder_images))
            return self.diffusion.update(autoencoder_loss(self.network, x, self.alpha, generator))
        if images_before < self.autoencoder_images + MOMENTS_IMAGES:
            with torch.no_grad():
                self.progress.add(self.network.encoder(x))
            self.progress.normalise(self.network)
            return 0.0
        with torch.no_grad():
            latents = self.network.encode(x)
        return self.diffusion.step(latents, y, generator)

    def schedule(self, network: Network) -> dict[str, Any]:
        """DDIM's, with the bound of the latents."""
        return {**SCHEDULE, "clip": float(network.bound)}
