"""The figures of `./run evaluate` for a latent model: the errors of its autoencoder on the test set."""

from typing import Any

import torch
from torch import Generator, Tensor

from models.latent.loss import autoencoder_errors
from models.latent.network import Network

BATCH_SIZE = 500


@torch.no_grad()
def evaluate(network: Network, x: Tensor, _: Tensor) -> dict[str, Any]:
    """The two errors of the autoencoder, means over x (n, C, H, W) in [−1, 1]."""
    errors = [
        autoencoder_errors(network, images, Generator().manual_seed(batch))
        for batch, images in enumerate(x.split(BATCH_SIZE))
    ]
    consistency, reconstruction = (torch.cat(batches).mean().item() for batches in zip(*errors, strict=True))
    return {"autoencoder": {"reconstruction": reconstruction, "consistency": consistency}}
