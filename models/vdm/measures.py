"""The figures of `./run evaluate` for a variational diffusion model: the bound on the test set."""

from typing import Any

import torch
from torch import Generator, Tensor
from tqdm import tqdm

from models.vdm.loss import Bound, bound
from models.vdm.network import Network

TIMESTEPS = {"T = 10": 10, "T = 100": 100, "T = 1000": 1000, "continuous": None}
BATCH_SIZE = 100


def evaluate(network: Network, x: Tensor, y: Tensor) -> dict[str, Any]:
    """The bound on −log p(x | y) and its terms, means over x (n, C, H, W) in [−1, 1] of classes y (n,).

    In bits per dimension, by the number of timesteps; the estimates share their noise.
    """
    rows = {}
    for name, timesteps in TIMESTEPS.items():
        means = [term.mean().item() for term in bounds(network, x, y, timesteps, name)]
        rows[name] = {**dict(zip(Bound._fields, means, strict=True)), "total": sum(means)}
    return {"bits_per_dimension": rows}


@torch.no_grad()
def bounds(network: Network, x: Tensor, y: Tensor, timesteps: int | None, name: str) -> Bound:
    """The bound of each image, from one noise level each; `name` is the progress bar's."""
    batches = tqdm(zip(x.split(BATCH_SIZE), y.split(BATCH_SIZE), strict=True), desc=name, leave=False)
    terms = [
        bound(network, images, labels, Generator().manual_seed(batch), timesteps=timesteps)
        for batch, (images, labels) in enumerate(batches)
    ]
    return Bound(*map(torch.cat, zip(*terms, strict=True)))
