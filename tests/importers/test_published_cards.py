"""The cards for published files: each builds a network of as many parameters as its paper says."""

from typing import Any

import pytest
import torch
from pydantic import BaseModel
from torch import nn

from importers import cards, ddgan, ddim, dit, latent_diffusion, vdm
from importers.networks.ddpm_unet import UNet
from importers.networks.diffusion_transformer import Settings, Transformer
from importers.networks.ncsnpp import Generator

FLAGS: dict[str, type[BaseModel]] = {
    "ddgan": ddgan.Flags,
    "ddim": ddim.Flags,
    "dit": dit.Flags,
    "latent-diffusion": latent_diffusion.Flags,
    "vdm": vdm.Flags,
}
PARAMETERS = {
    # Ho et al. 2020 (arXiv 2006.11239), appendix B.
    "ddim-cifar10": 35.7e6,
    "ddim-lsun-bedroom": 114e6,
    "ddim-lsun-cat": 114e6,
    "ddim-lsun-church": 114e6,
    # Rombach et al. 2022 (arXiv 2112.10752), tables 12 and 10.
    "latent-celeba-hq256": 274e6,
    "latent-ffhq256": 274e6,
    "latent-lsun-bedrooms256": 274e6,
    "latent-lsun-churches256": 294e6,
    "latent-imagenet256": 400e6,
}


def network(name: str) -> nn.Module:
    """The network of a card, without memory."""
    card = cards.load(cards.PUBLISHED / f"{name}.toml")
    with torch.device("meta"):
        if card.format == "ddim":
            flags = ddim.Flags.model_validate(card.settings)
            return UNet(flags.model, flags.data.image_size)
        latent = latent_diffusion.Flags.model_validate(card.settings)
        labels = 1001 if latent.unet_config.params.use_spatial_transformer else 0
        return latent_diffusion.build(latent.unet_config.params, labels)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_card_has_a_network_of_the_published_size(name: str) -> None:
    count = sum(parameter.numel() for parameter in network(name).parameters())
    assert count == pytest.approx(PARAMETERS[name], rel=0.015)


def test_the_largest_transformer_has_its_published_size() -> None:
    """DiT-XL/2 (Peebles & Xie 2023, arXiv 2212.09748, table 4): 675 million."""
    settings: dict[str, Any] = {"hidden_size": 1152, "depth": 28, "num_heads": 16, "mlp_width": 4608, "patch_size": 2}
    with torch.device("meta"):
        largest = Transformer(Settings(input_size=32, in_channels=4, out_channels=8, labels=1001, **settings))
    assert sum(parameter.numel() for parameter in largest.parameters()) == pytest.approx(675e6, rel=0.005)


@pytest.mark.parametrize("name", ["ddgan-cifar10", "ddgan-celeba-hq256"])
def test_a_card_of_a_generator_has_settings_that_build_it(name: str) -> None:
    card = cards.load(cards.PUBLISHED / f"{name}.toml")
    flags = ddgan.Flags.model_validate(card.settings)
    with torch.device("meta"):
        state = Generator(flags).state_dict()
    assert state["z_transform.1.weight"].shape == (256, 100)
    assert cards.published(card.files[0]) == card


def test_every_card_has_flags_of_its_format_and_no_file_has_two() -> None:
    all_cards = [cards.load(path) for path in sorted(cards.PUBLISHED.glob("*.toml"))]
    files = [name for card in all_cards for name in card.files]
    assert len(files) == len(set(files))
    for card in all_cards:
        if card.format in FLAGS:
            cards.parse(card.settings, FLAGS[card.format], card.source)
    assert FLAGS.keys() <= {card.format for card in all_cards}
