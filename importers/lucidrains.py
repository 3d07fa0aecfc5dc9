"""Imports milestones of denoising-diffusion-pytorch's Trainer: the EMA weights, and the schedule from its buffers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from importers import cards
from importers.cards import Card, Settings
from importers.formats import Format
from importers.imported import Discrete, Imported, Prediction, Vector
from importers.lucidrains_layout import Version, find_layout
from importers.networks.lucidrains_unet import Layout, UNet
from importers.problems import ImportProblem
from importers.reading import read_torch
from importers.weights import fill, weights

EMA_PREFIXES = ("ema_model.model.", "model.")  # of ema_pytorch, and of the milestones before it
PREDICTIONS: Mapping[str, Prediction] = {"pred_noise": "epsilon", "pred_x0": "x0", "pred_v": "v"}
MAX_TIMESTEPS = 100_000

Size = Annotated[int, Field(ge=4, le=4096)]
Count = Annotated[int, Field(ge=1, le=MAX_TIMESTEPS)]


class LucidrainsSettings(Settings):
    """Arguments of Unet and GaussianDiffusion. Only the first has to be given.

    The weights show those that may be None, and one that is set is compared with them.
    """

    image_size: Size | tuple[Size, Size]
    dim: Count | None = None
    init_dim: Count | None = None
    dim_mults: tuple[int, ...] | None = None
    channels: Count | None = None
    self_condition: bool | None = None
    learned_variance: bool | None = None
    learned_sinusoidal_cond: bool | None = None
    timesteps: Count | None = None
    objective: Literal["pred_noise", "pred_x0", "pred_v"] | None = None  # None: by the buffer `loss_weight`
    sampling_timesteps: Count | None = None  # fewer than the training's: DDIM; None: all of them
    ddim_sampling_eta: Annotated[float, Field(ge=0, le=1)] = 0.0
    attn_heads: Annotated[int, Field(ge=1, le=1024)] = 4  # of versions before 1.9
    resnet_block_groups: Annotated[int, Field(ge=1, le=1024)] = 8  # of versions before 2.0
    sinusoidal_pos_emb_theta: Annotated[float, Field(gt=0)] = 10000.0
    version: str | None = None  # of the library, where the file does not have it
    auto_normalize: Literal[True] = True  # images are in [−1, 1] while sampling
    beta_schedule: str = ""  # the buffers have it
    flash_attn: bool = False  # another way to compute the same
    dropout: float = 0.0  # in training only, as the next four are
    offset_noise_strength: float = 0.0
    min_snr_loss_weight: bool = False
    min_snr_gamma: float = 5.0
    immiscible: bool = False


def load(path: Path, card: Card) -> Imported:
    """The model in a `model-N.pt`, with what the card says of it. Raises ImportProblem."""
    settings = card.flags(LucidrainsSettings, path)
    file = read_torch(path)
    if not isinstance(file, Mapping) or "ema" not in file:
        raise ImportProblem(f"{path.name}: no milestone: it has no `ema`")
    prefix = next((name for name in EMA_PREFIXES if any(str(key).startswith(name) for key in file["ema"])), "model.")
    version = version_of(settings.version or file.get("version"), path.name)
    state = weights(file["ema"], path.name, prefix)
    layout = find_layout(
        state, version, settings.attn_heads, settings.resnet_block_groups, settings.sinusoidal_pos_emb_theta, path.name
    )
    buffers = weights(file["ema"], path.name, prefix.removesuffix("model."))
    schedule = schedule_of(buffers, path.name)
    timesteps = len(schedule.betas)
    compare(settings, layout, timesteps, path.name)
    steps = settings.sampling_timesteps or timesteps
    return Imported(
        format=Format.LUCIDRAINS,
        network=fill(lambda: UNet(layout), state, path.name),
        shape=shape_of(layout, settings),
        prediction=PREDICTIONS[settings.objective or objective_of(buffers, schedule.alphas_cumprod, path.name)],
        schedule=schedule,
        sampler="ddim" if steps < timesteps else "ddpm",
        settings={"steps": steps, "eta": settings.ddim_sampling_eta},
        variance="learned_range" if layout.out_channels == 2 * layout.in_channels else "fixed_small",
        clip=1.0,
        self_condition=layout.in_channels == 2 * layout.out_channels,
        facts={**card.facts, "step": file.get("step"), "version": file.get("version")},
    )


def compare(settings: LucidrainsSettings, layout: Layout, timesteps: int, source: str) -> None:
    """Raises ImportProblem where an argument says something else than the file does."""
    dim = layout.embedding // 4
    in_file = {
        "dim": dim,
        "init_dim": layout.widths[0],
        "dim_mults": tuple(width / dim for width in layout.widths[1:]),
        "channels": min(layout.in_channels, layout.out_channels),
        "self_condition": layout.in_channels == 2 * layout.out_channels,
        "learned_variance": layout.out_channels == 2 * layout.in_channels,
        "learned_sinusoidal_cond": layout.learned_times,
        "timesteps": timesteps,
    }
    cards.compare(settings, in_file, source, "the file says")


def version_of(text: Any, source: str) -> Version | None:
    """ "1.7.3" → (1, 7, 3)."""
    if text is None:
        return None
    parts = str(text).split(".")
    if not all(part.isdecimal() and len(part) < 6 for part in parts):
        raise ImportProblem(f"{source}: its version is no version")
    return tuple(map(int, parts))


def shape_of(layout: Layout, settings: LucidrainsSettings) -> tuple[int, int, int]:
    """(C, H, W) of an image."""
    channels = min(layout.in_channels, layout.out_channels)
    if {layout.in_channels, layout.out_channels} - {channels, 2 * channels}:
        raise ImportProblem(f"{layout.in_channels} channels become {layout.out_channels}: no image model")
    size = settings.image_size
    return (channels, *size) if isinstance(size, tuple) else (channels, size, size)


def schedule_of(buffers: Mapping[str, Tensor], source: str) -> Discrete:
    """By the buffers `betas` and `alphas_cumprod`, float32 of what was computed in float64."""
    betas, rounded = (buffer(buffers, name, source) for name in ("betas", "alphas_cumprod"))
    if len(betas) != len(rounded):
        raise ImportProblem(f"{source}: its buffers `betas` and `alphas_cumprod` differ in length")
    # The product of the β has the digits of 1 − ᾱ that float32 cuts off near the image, the buffer those of a small ᾱ.
    product = np.cumprod(1 - betas, dtype=np.float64)
    return Discrete(betas, np.where(product > 0.5, product, rounded), np.arange(len(betas), dtype=np.float64))


def buffer(buffers: Mapping[str, Tensor], name: str, source: str) -> Vector:
    """(T,) float64 between 0 and 1."""
    values = buffers.get(name)
    if values is None or values.ndim != 1 or not 1 <= len(values) <= MAX_TIMESTEPS:
        raise ImportProblem(f"{source}: its buffer `{name}` is missing or is no schedule")
    if not bool(((values >= 0) & (values <= 1)).all()):
        raise ImportProblem(f"{source}: its buffer `{name}` has a value outside of 0 … 1")
    return values.double().numpy()


def objective_of(buffers: Mapping[str, Tensor], alphas_cumprod: Vector, source: str) -> str:
    """The training objective, by its loss's weights: with SNR = ᾱ/(1 − ᾱ), these are 1 for ε, SNR for x0, and
    SNR/(SNR + 1) for v. Where SNR > 1 they may be cut (arXiv 2303.09556), so only the rest is looked at.
    """
    weight = buffers.get("loss_weight")
    if weight is None or weight.shape != alphas_cumprod.shape:
        raise ImportProblem(f"{source}: no loss_weight shows its objective; a card has to say it in its settings")
    noisy = alphas_cumprod < 0.5
    snr = alphas_cumprod[noisy] / (1 - alphas_cumprod[noisy])
    expected = {"pred_noise": np.ones_like(snr), "pred_x0": snr, "pred_v": snr / (snr + 1)}
    actual = weight.double().numpy()[noisy]
    fitting = [name for name, values in expected.items() if np.allclose(actual, values, rtol=1e-2, atol=1e-6)]
    if len(fitting) != 1:
        raise ImportProblem(f"{source}: loss_weight does not show its objective; a card has to say it in its settings")
    return fitting[0]
