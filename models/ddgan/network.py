"""The generator and the discriminator of a denoising diffusion GAN."""

import copy
import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import group_norm, pixel_shuffle, pixel_unshuffle

from models.schedules import EDGE
from models.unet import FOLD, TIMESTEPS, small_unet

SLOPE = 0.2  # of the leaky rectifiers
GAIN = 1.1  # of the generator's output, before it is clipped to what an image can be
WIDTH = 128  # of the discriminator's heads


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
        self.register_buffer("time", time_of_angle(alphas_cumprod.sqrt().acos()), persistent=False)
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


def time_of_angle(angle: Tensor) -> Tensor:
    """The times, float32, that the network of `models.ddim` gets where ᾱ = cos² `angle` on its schedule."""
    edge = math.asin(EDGE)
    return ((angle - edge) / (math.pi / 2 - 2 * edge) * (TIMESTEPS - 1)).clamp(min=0).float()


class Encoder(nn.Module):
    """The encoder half of a generator's U-Net, frozen with its initial weights: those of a DDIM read noisy images."""

    unet: Any  # diffusers' U-Net, of which `forward` calls the parts

    def __init__(self, generator: Network) -> None:
        super().__init__()
        self.unet = copy.deepcopy(generator.unet)
        del self.unet.up_blocks, self.unet.conv_norm_out, self.unet.conv_act, self.unet.conv_out
        self.label = copy.deepcopy(generator.label)
        self.widths = [*self.unet.config.block_out_channels, self.unet.config.block_out_channels[-1]]
        self.requires_grad_(False)

    def forward(self, x: Tensor, time: Tensor, y: Tensor) -> list[Tensor]:
        """x (n, C, H, W) noised to `time` (n,), y (n,) int64 → the features (n, width, …) of each level, normalised."""
        style = self.unet.time_embedding(self.unet.time_proj(time)) + self.label(y)
        hidden = self.unet.conv_in(pixel_unshuffle(x, FOLD))
        levels = []
        for block in self.unet.down_blocks:
            hidden, skips = block(hidden, style)
            levels.append(skips[0])
        levels.append(self.unet.mid_block(hidden, style))
        return [group_norm(level, 1) for level in levels]


class Head(nn.Module):
    """Features of a level (n, inputs, h, w) and classes y (n,) int64 → the logits (n,), means over the positions."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, WIDTH, 1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.LeakyReLU(SLOPE),
        )
        self.logit = nn.Linear(WIDTH, 1)
        self.projection = nn.Embedding(classes + 1, WIDTH)  # for the class (Miyato & Koyama 2018, arXiv 1802.05637)
        nn.init.normal_(self.projection.weight, std=0.02)

    def forward(self, level: Tensor, y: Tensor) -> Tensor:
        hidden = self.layers(level).mean(dim=(2, 3))
        logit: Tensor = self.logit(hidden)[:, 0] + (self.projection(y) * hidden).sum(dim=1) / WIDTH**0.5
        return logit


class Discriminator(nn.Module):
    """D(x_s, x_t, t, y): logits (n, levels) that x_s, one step nearer the data than x_t, is from the data.

    A head for each level of a frozen encoder's features (Sauer et al. 2024, arXiv 2403.12015): a small generator's
    discriminator that trained its encoder too went blind on colour images.
    """

    batches: Tensor

    def __init__(self, generator: Network) -> None:
        super().__init__()
        self.encoder = Encoder(generator)
        self.heads = nn.ModuleList(Head(2 * width, generator.classes) for width in self.encoder.widths)
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))  # trained on

    def features(self, x: Tensor, angle: Tensor, y: Tensor) -> list[Tensor]:
        """Of x (n, C, H, W), whose ᾱ is cos² `angle` (n,), and y (n,) int64: (n, width, …) a level."""
        features: list[Tensor] = self.encoder(x, time_of_angle(angle), y)
        return features

    def forward(self, of_s: list[Tensor], of_t: list[Tensor], y: Tensor) -> Tensor:
        """The features of x_s and of x_t."""
        levels = zip(self.heads, of_s, of_t, strict=True)
        return torch.stack([head(torch.cat((s, t), dim=1), y) for head, s, t in levels], dim=1)
