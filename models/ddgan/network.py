"""The generator and the discriminator of a denoising diffusion GAN."""

import copy
import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, pad, pixel_shuffle, pixel_unshuffle

from models.schedules import EDGE
from models.unet import FOLD, TIMESTEPS, small_unet

SLOPE = 0.2  # of the leaky rectifier
GAIN = 1.1  # of the generator's output, before it is clipped to what an image can be
WIDTH = 128  # of the discriminator's last layers


class Network(nn.Module):
    """G(x_t, t, y, z) = clip(GAIN·(α_t·x_t − σ_t·F(x_t, t, y, z))), with z of `latent` normal numbers; 0: without z.

    The clipping replaces the paper's tanh: nearly black and white pixels become exact, where a linear output leaves
    grain that a small discriminator overlooks. Its gradient is that of the identity (Bengio et al. 2013, arXiv
    1308.3432), so clipped pixels still learn.

    z goes through an MLP and, with time and class, scales and shifts the group norms (Xiao et al. 2022, arXiv
    2112.07804, section 4 and appendix C). F and time are as in `models.ddim.network`: with a DDIM's weights, G is GAIN
    times the mean of x0 given x_t. Adversarial training starts from such weights (as Xu et al. 2023, arXiv 2311.09257).
    """

    ALIASES: ClassVar = {"label.weight": "unet.class_embedding.weight"}  # in a DDIM's checkpoint

    def __init__(
        self, *, shape: tuple[int, int, int], classes: int, schedule: dict[str, Any], channels: list[int], latent: int
    ) -> None:
        super().__init__()
        depth, height, _ = shape
        self.shape, self.classes, self.z_dim = shape, classes, latent
        alphas_cumprod = torch.tensor(schedule["alphas_cumprod"], dtype=torch.float64)
        self.alpha: Tensor
        self.sigma: Tensor
        self.time: Tensor
        self.register_buffer("time", angle_time(alphas_cumprod), persistent=False)
        self.register_buffer("alpha", alphas_cumprod.sqrt().float(), persistent=False)
        self.register_buffer("sigma", (1 - alphas_cumprod).sqrt().float(), persistent=False)
        width = 4 * channels[0]
        self.unet = small_unet(
            size=height,
            fold=FOLD,
            inputs=depth * FOLD**2,
            outputs=depth * FOLD**2,
            channels=channels,
            class_embed_type="identity",
        )
        self.label = nn.Embedding(classes + 1, width)
        if latent:
            last = nn.Linear(width, width)
            nn.init.normal_(last.weight, std=0.1)  # z has an effect, and the weights of a DDIM still fit
            self.mapping = nn.Sequential(nn.Linear(latent, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), last)

    def forward(self, x: Tensor, t: Tensor, y: Tensor, z: Tensor | None = None) -> Tensor:
        """x (n, C, H, W), t (n,) timesteps from 0, y (n,) int64 labels, z (n, z_dim) → x0 (n, C, H, W)."""
        style = self.label(y)
        if z is not None:
            style = style + self.mapping(z / z.square().mean(dim=1, keepdim=True).add(1e-8).sqrt())
        timestep = t.long()
        inner = self.unet(pixel_unshuffle(x, FOLD), self.time[timestep], class_labels=style, return_dict=False)[0]
        alpha, sigma = self.alpha[timestep].view(-1, 1, 1, 1), self.sigma[timestep].view(-1, 1, 1, 1)
        x0 = GAIN * (alpha * x - sigma * pixel_shuffle(inner, FOLD))
        return x0 + (x0.clip(-1, 1) - x0).detach()


def angle_time(alphas_cumprod: Tensor) -> Tensor:
    """The times, float32, that the network of `models.ddim` gets for these ᾱ = cos² φ on its schedule."""
    edge = math.asin(EDGE)
    angle = alphas_cumprod.sqrt().acos()
    return ((angle - edge) / (math.pi / 2 - 2 * edge) * (TIMESTEPS - 1)).clamp(min=0).float()


class Discriminator(nn.Module):
    """D(x_s, x_t, t, y): the logit (n,) that x_s, one step nearer the data than x_t, is from the data.

    It is the encoder half of the generator's U-Net, with the generator's initial weights. Those of a DDIM can read
    noisy images from the first batch on (Xu et al. 2023, arXiv 2311.09257).
    """

    unet: Any  # diffusers' U-Net, of which `forward` calls the parts
    time: Tensor
    batches: Tensor

    def __init__(self, generator: Network) -> None:
        super().__init__()
        self.register_buffer("time", pad(generator.time[:-1], (1, 0)), persistent=False)
        self.unet = copy.deepcopy(generator.unet)
        del self.unet.up_blocks, self.unet.conv_norm_out, self.unet.conv_act, self.unet.conv_out
        self.label = copy.deepcopy(generator.label)
        first = self.unet.conv_in
        self.before = nn.Conv2d(first.in_channels, first.out_channels, 3, padding=1)
        nn.init.zeros_(self.before.weight)
        width = self.unet.config.block_out_channels[-1]
        self.last = nn.Conv2d(width + 1, WIDTH, 3, padding=1)
        self.head = nn.Linear(WIDTH, 1)
        self.projection = nn.Embedding(generator.classes + 1, WIDTH)
        nn.init.normal_(self.projection.weight, std=0.02)
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))  # trained on, for the lazy penalty

    def forward(self, x_s: Tensor, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """x_s, x_t (n, C, H, W), t the timestep of x_t and y (n,) int64."""
        time = self.time[t]
        style = self.unet.time_embedding(self.unet.time_proj(time)) + self.label(y)
        hidden = self.unet.conv_in(pixel_unshuffle(x_s, FOLD)) + self.before(pixel_unshuffle(x_t, FOLD))
        for block in self.unet.down_blocks:
            hidden, _ = block(hidden, style)
        hidden = self.unet.mid_block(hidden, style)
        # The spread within the batch as one more channel detects a generator without spread (Karras et al. 2018).
        spread = hidden.std(dim=0, correction=0).mean().expand_as(hidden[:, :1])
        hidden = leaky_relu(self.last(torch.cat([hidden, spread], dim=1)), SLOPE).mean(dim=(2, 3))
        # A projection discriminator (Miyato & Koyama 2018) for the class.
        logit: Tensor = self.head(hidden)[:, 0] + (self.projection(y) * hidden).sum(dim=1) / WIDTH**0.5
        return logit
