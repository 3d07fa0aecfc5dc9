"""The noise-prediction objective."""

from typing import Any

import torch
from torch import Generator, Tensor, nn

from models.ddim.network import NoisePredictor
from models.schedules import cosine_schedule

RECOMMENDED_STEPS = 20
SCHEDULE: dict[str, Any] = {"alphas_cumprod": cosine_schedule(1000).tolist()}
OBJECTIVE: dict[str, Any] = {}

MAX_GRADIENT_NORM = 1.0


def network_settings(_size: int) -> dict[str, Any]:
    """See `models.training_loop.Objective`."""
    return {"channels": [32, 64, 96]}


def loss(network: NoisePredictor, x: Tensor, y: Tensor, generator: Generator) -> Tensor:
    """L_γ (Song et al. 2020, arXiv 2010.02502, eq. 5): E γ_t·‖ε − ε̂(α_t·x + σ_t·ε, t, y)‖², a mean over pixels.

    γ_t = 1/α_t² gives errors of v = α_t·ε − σ_t·x the same weight at all t (Salimans & Ho 2022, arXiv 2202.00512,
    section 4). With γ = 1 the first steps from noise hardly count, though deterministic samplers depend on them.
    x (n, C, H, W) in [−1, 1]; the timesteps and the noise come from `generator`.
    """
    t = torch.randint(len(network.alpha), (len(x),), generator=generator, device=x.device)
    noise = torch.randn(x.shape, generator=generator, device=x.device)
    alpha, sigma = network.alpha[t].view(-1, 1, 1, 1), network.sigma[t].view(-1, 1, 1, 1)
    return ((noise - network(alpha * x + sigma * noise, t.float(), y)) / alpha).square().mean()


class Objective:
    """See `models.training_loop.Objective`."""

    def __init__(self, network: NoisePredictor, learning_rate: float) -> None:
        self.network = network
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=1e-4)
        self.modules = {"network": network}
        self.optimizers = {"network": self.optimizer}

    def step(self, x: Tensor, y: Tensor, generator: Generator) -> float:
        return self.update(loss(self.network, x, y, generator))

    def update(self, value: Tensor) -> float:
        """A step of the optimizer down the gradient of the loss; returns its value."""
        self.optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), MAX_GRADIENT_NORM)
        self.optimizer.step()
        return value.item()

    def schedule(self, _: NoisePredictor) -> dict[str, Any]:
        """Fixed."""
        return SCHEDULE
