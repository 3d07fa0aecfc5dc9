"""The generator and the discriminator of a denoising diffusion GAN."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, leaky_relu, pixel_shuffle, pixel_unshuffle

from models.unet import FOLD, TIMESTEPS, small_unet

SLOPE = 0.2  # of the leaky rectifiers


class Network(nn.Module):
    """G(x_t, t, y, z) → x0, with `latent` standard normal numbers z; without z if `latent` is 0.

    z goes through an MLP and, with time and class, scales and shifts the group norms (Xiao et al. 2022, arXiv
    2112.07804, section 4 and appendix C).
    """

    def __init__(
        self, *, shape: tuple[int, int, int], classes: int, schedule: dict[str, Any], channels: list[int], latent: int
    ) -> None:
        super().__init__()
        depth, height, _ = shape
        self.shape, self.classes, self.latent = shape, classes, latent
        self.time_scale = TIMESTEPS / len(schedule["alphas_cumprod"])
        width = 4 * channels[0]
        self.unet = small_unet(
            size=height // FOLD,
            inputs=depth * FOLD**2,
            outputs=depth * FOLD**2,
            channels=channels,
            class_embed_type="identity",
        )
        self.label = nn.Embedding(classes + 1, width)
        if latent:
            self.mapping = nn.Sequential(
                nn.Linear(latent, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)
            )

    def forward(self, x: Tensor, t: Tensor, y: Tensor, z: Tensor | None = None) -> Tensor:
        """x (n, C, H, W), t (n,) timesteps from 0, y (n,) int64 labels, z (n, latent) → x0 (n, C, H, W) in [−1, 1]."""
        style = self.label(y)
        if z is not None:
            style = style + self.mapping(z / z.square().mean(dim=1, keepdim=True).add(1e-8).sqrt())
        folded = pixel_unshuffle(x, FOLD)
        inner = self.unet(folded, t * self.time_scale, class_labels=style, return_dict=False)[0]
        return torch.tanh(pixel_shuffle(inner, FOLD))


class Discriminator(nn.Module):
    """D(x_s, x_t, t, y): whether x_s, one step nearer the data than x_t, is from the data; a logit (n,)."""

    def __init__(self, *, shape: tuple[int, int, int], classes: int, timesteps: int, channels: list[int]) -> None:
        super().__init__()
        depth, width = shape[0], channels[-1]
        self.time = nn.Embedding(timesteps, width)
        self.label = nn.Embedding(classes + 1, width)
        self.batches: Tensor
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))  # trained on, for the lazy penalty
        self.first = nn.Conv2d(2 * depth * FOLD**2, channels[0], 3, padding=1)
        self.blocks = nn.ModuleList(DownBlock(inputs, outputs, width) for inputs, outputs in pairwise(channels))
        self.last = nn.Conv2d(width + 1, width, 3, padding=1)
        self.head = nn.Linear(width, 1)
        # PyTorch's own initialisation lets the image fade from layer to layer, and D sees little but its biases.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=SLOPE)
        nn.init.normal_(self.label.weight, std=0.02)

    def forward(self, x_s: Tensor, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """x_s, x_t (n, C, H, W), t and y (n,) int64."""
        condition = self.time(t)
        hidden = self.first(pixel_unshuffle(torch.cat([x_s, x_t], dim=1), FOLD))
        for block in self.blocks:
            hidden = block(hidden, condition)
        # The spread within the batch as one more channel: a generator without spread is seen (Karras et al. 2018).
        spread = hidden.std(dim=0, correction=0).mean().expand_as(hidden[:, :1])
        hidden = leaky_relu(self.last(torch.cat([hidden, spread], dim=1)), SLOPE).mean(dim=(2, 3))
        # A projection discriminator (Miyato & Koyama 2018) for the class.
        logit: Tensor = self.head(hidden)[:, 0] + (self.label(y) * hidden).sum(dim=1) / hidden.shape[1] ** 0.5
        return logit


class DownBlock(nn.Module):
    """Two convolutions, conditioned on time, then half the size; with a linear way past them."""

    def __init__(self, inputs: int, outputs: int, condition: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.condition = nn.Linear(condition, outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        hidden = self.first(leaky_relu(x, SLOPE)) + self.condition(condition)[:, :, None, None]
        hidden = self.second(leaky_relu(hidden, SLOPE))
        result: Tensor = (avg_pool2d(hidden, 2) + self.skip(avg_pool2d(x, 2))) / 2**0.5
        return result
