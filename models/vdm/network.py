"""The noise-prediction network of a variational diffusion model, and its learned noise schedule."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle, softplus

from models.unet import FOLD, TIMESTEPS, small_unet

GAMMA_MIN, GAMMA_MAX = -13.3, 5.0  # the endpoints at the start of training, as in the paper
FOURIER_EXPONENTS = (5, 6)
KNOTS = 1001  # of the schedule in the manifest


class Schedule(nn.Module):
    """γ_η(t), rising in t because its weights are positive (Kingma et al. 2021, arXiv 2107.00630, appendix H).

    γ(t) = γ_0 + (γ_1 − γ_0)·h(t), with h from 0 to 1 the rescaled l1(t) + l3(sigmoid(l2(l1(t)))); all of it is learned.
    """

    def __init__(self, width: int = 1024) -> None:
        super().__init__()
        self.gamma_0 = nn.Parameter(torch.tensor(GAMMA_MIN))
        self.gamma_1 = nn.Parameter(torch.tensor(GAMMA_MAX))
        # Weights are the softplus of these; the start is close to a straight line.
        self.w1 = nn.Parameter(torch.tensor(1.0))
        self.w2 = nn.Parameter(torch.randn(width) * 0.5)
        self.b2 = nn.Parameter(torch.randn(width) * 2.0)
        self.w3 = nn.Parameter(torch.full((width,), math.log(math.expm1(0.1 / width))))

    def _raw(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Before rescaling: the monotonic function of t (n,) and its derivative."""
        w1, w2, w3 = softplus(self.w1), softplus(self.w2), softplus(self.w3)
        straight = w1 * t
        bend = torch.sigmoid(straight[:, None] * w2 + self.b2)
        return straight + bend @ w3, w1 + (bend * (1 - bend) * w2) @ w3 * w1

    def unit(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """h(t) (n,), from h(0) = 0 to h(1) = 1, and its derivative dh/dt (n,)."""
        raw, slope = self._raw(t)
        (low, high), _ = self._raw(torch.tensor([0.0, 1.0], device=t.device))
        return (raw - low) / (high - low), slope / (high - low)

    def forward(self, t: Tensor) -> Tensor:
        """γ(t), (n,) from times (n,) in [0, 1]."""
        return self.gamma_0 + (self.gamma_1 - self.gamma_0) * self.unit(t)[0]


class Network(nn.Module):
    """ε̂(z_t, γ_t, y) = σ_t·z_t + α_t·F(z_t, γ_t, y), with Fourier features of z_t appended to F's input.

    The features sin(2^k π z) and cos(2^k π z) let F see the finest scales (section 4.5 of the paper). The skip is that
    of `models.ddim.network`.
    """

    def __init__(
        self, *, shape: tuple[int, int, int], classes: int, schedule: dict[str, Any], channels: list[int], fourier: bool
    ) -> None:
        super().__init__()
        depth, height, _ = shape
        self.exponents = FOURIER_EXPONENTS if fourier else ()
        self.unet = small_unet(
            size=height,
            fold=FOLD,
            inputs=depth * FOLD**2 * (1 + 2 * len(self.exponents)),
            outputs=depth * FOLD**2,
            channels=channels,
            num_class_embeds=classes + 1,
        )
        self.schedule = Schedule()

    def forward(self, z: Tensor, gamma: Tensor, y: Tensor) -> Tensor:
        """z (n, C, H, W), γ (n,), y (n,) int64 labels → predicted noise, shaped like z."""
        angles = [2**k * math.pi * z for k in self.exponents]
        features = torch.cat([z, *map(torch.sin, angles), *map(torch.cos, angles)], dim=1)
        time = (gamma - GAMMA_MIN) / (GAMMA_MAX - GAMMA_MIN) * TIMESTEPS
        inner = self.unet(pixel_unshuffle(features, FOLD), time, class_labels=y, return_dict=False)[0]
        alpha, sigma = alpha_sigma(gamma)
        return sigma * z + alpha * pixel_shuffle(inner, FOLD)

    @torch.no_grad()
    def noise_schedule(self) -> dict[str, Any]:
        """The learned schedule as the manifest carries it."""
        return {"gamma": self.schedule(torch.linspace(0, 1, KNOTS)).double().tolist()}


def alpha_sigma(gamma: Tensor) -> tuple[Tensor, Tensor]:
    """α and σ, (n, 1, 1, 1) each, from γ (n,): σ² = sigmoid(γ), α² = sigmoid(−γ)."""
    rows = gamma.view(-1, 1, 1, 1)
    return torch.sigmoid(-rows).sqrt(), torch.sigmoid(rows).sqrt()
