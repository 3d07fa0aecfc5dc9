"""The noise-prediction network: a small U-Net on 2×2 pixel blocks, conditioned on time and class."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from models.unet import FOLD, small_unet


class NoisePredictor(nn.Module):
    """ε̂(x_t, t, y) = σ_t·x_t + α_t·F(x_t, t, y), where a subclass predicts F.

    The skip is exact where x_t is nearly all noise: there ε̂ ≈ x_t. So the error of x0 = (x_t − σ_t·ε̂)/α_t is that of F,
    not 1/α_t times it (the preconditioning of Karras et al. 2022, arXiv 2206.00364, section 5). The loss is still on ε̂.
    """

    def __init__(self, schedule: dict[str, Any]) -> None:
        super().__init__()
        alphas_cumprod = torch.from_numpy(np.asarray(schedule["alphas_cumprod"], dtype=np.float64))
        self.alpha: Tensor
        self.sigma: Tensor
        self.register_buffer("alpha", alphas_cumprod.sqrt().float(), persistent=False)
        self.register_buffer("sigma", (1 - alphas_cumprod).sqrt().float(), persistent=False)

    def predict(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """F; arguments and result as `forward` has them."""
        raise NotImplementedError

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """x (n, C, H, W) float32, t (n,) float32 timesteps, y (n,) int64 labels → predicted noise, shaped like x."""
        timestep = t.long()
        alpha, sigma = self.alpha[timestep].view(-1, 1, 1, 1), self.sigma[timestep].view(-1, 1, 1, 1)
        return sigma * x + alpha * self.predict(x, t, y)


class Network(NoisePredictor):
    """A noise predictor with a U-Net for F."""

    def __init__(self, *, shape: tuple[int, int, int], classes: int, schedule: dict[str, Any], channels: list[int]):
        """`shape` is (C, H, W) of an image; label `classes` (one past the last) means "no class"."""
        super().__init__(schedule)
        depth, height, _ = shape
        folded = depth * FOLD**2
        self.unet = small_unet(
            size=height, fold=FOLD, inputs=folded, outputs=folded, channels=channels, num_class_embeds=classes + 1
        )

    def predict(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        inner: Tensor = self.unet(pixel_unshuffle(x, FOLD), t, class_labels=y, return_dict=False)[0]
        return pixel_shuffle(inner, FOLD)
