"""The formats of published checkpoints, by the names that cards and bundles have for them."""

from enum import StrEnum


class Format(StrEnum):
    """A repository's way to write a model."""

    DIFFUSERS = "diffusers"
    IMPROVED = "improved-diffusion"
    GUIDED = "guided-diffusion"
    CONSISTENCY = "consistency-models"
    LUCIDRAINS = "denoising-diffusion-pytorch"
    EDM = "edm"
    DDGAN = "ddgan"
    DDIM = "ddim"
    VDM = "vdm"
    LATENT = "latent-diffusion"
    DIT = "dit"
