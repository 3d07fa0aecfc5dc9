"""What `./run evaluate` measures of a latent model beside its images: its autoencoder on the test set."""

from typing import Any

import torch
from torch import Generator, Tensor

from models.latent.network import Network

BATCH_SIZE = 500


@torch.no_grad()
def evaluate(network: Network, x: Tensor, _: Tensor) -> dict[str, Any]:
    """The two terms of `models.latent.loss.autoencoder_loss` over x (n, C, H, W) in [−1, 1], as mean squared errors."""
    errors = []
    for batch, images in enumerate(x.split(BATCH_SIZE)):
        latents = network.encoder(images)
        z = torch.randn(latents.shape, generator=Generator().manual_seed(batch))
        both = (network.decoder(latents) - images, z - network.encoder(network.decoder(z)))
        errors.append(torch.stack([error.square().flatten(1).mean(dim=1) for error in both]))
    reconstruction, consistency = torch.cat(errors, dim=1).mean(dim=1).tolist()
    return {"autoencoder": {"reconstruction": reconstruction, "consistency": consistency}}
