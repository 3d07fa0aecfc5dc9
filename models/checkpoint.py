"""A checkpoint: a folder with `model.safetensors`, the EMA weights, and `model.json`, what it is and where from."""

import hashlib
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

WEIGHTS, CARD = "model.safetensors", "model.json"


class Card(BaseModel):
    """What `model.json` says: enough to build the network again, and where its weights came from."""

    model_config = ConfigDict(extra="forbid")

    name: str  # what callers ask for as `method`
    family: str  # the folder under models/
    shape: tuple[int, int, int]  # (C, H, W) of an image
    classes: list[str]
    noise_schedule: dict[str, Any]
    network: dict[str, Any]  # the family's own settings of its network
    recommended_steps: int
    training: dict[str, Any]  # settings, data digest, seed, package versions, images seen

    @property
    def latent(self) -> int:
        """How many standard normal numbers z the network takes; 0: none."""
        return int(self.network.get("latent", 0))

    @property
    def state_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what is denoised: an image, or a latent."""
        depth, height, width = self.network.get("state_shape", self.shape)
        return depth, height, width

    @property
    def decodes(self) -> bool:
        """Whether the network's `decode` makes images of what is denoised."""
        return self.state_shape != self.shape

    def build(self) -> nn.Module:
        """A network with fresh weights."""
        module = import_module(f"models.{self.family}.network")
        network: nn.Module = module.Network(
            shape=self.shape, classes=len(self.classes), schedule=self.noise_schedule, **self.network
        )
        return network


def save(folder: Path, card: Card, weights: dict[str, Tensor]) -> None:
    """Writes the checkpoint, the card last; each file replaces the old one whole."""
    folder.mkdir(parents=True, exist_ok=True)
    save_replacing(weights, folder / WEIGHTS)
    text = json.dumps(card.model_dump(), indent=1)
    partial = folder / f"{CARD}.partial"
    partial.write_text(text + "\n")
    partial.replace(folder / CARD)


def load(folder: Path) -> tuple[Card, nn.Module]:
    """The card and the network with its EMA weights, in evaluation mode."""
    card = Card.model_validate_json((folder / CARD).read_text())
    network = card.build()
    network.load_state_dict(load_file(folder / WEIGHTS))
    return card, network.eval()


def load_matching(network: nn.Module, folder: Path) -> None:
    """Gives `network` the checkpoint's weights where both have one of that name and shape; says how many there were.

    A network's ALIASES are other names of its own weights, as another family's checkpoint may have them.
    Raises ValueError if there is none.
    """
    own = network.state_dict()
    given = load_file(folder / WEIGHTS)
    aliases = getattr(network, "ALIASES", {})
    found = {name: given.get(name, given.get(aliases.get(name, name))) for name in own}
    matching = {name: value for name, value in found.items() if value is not None and value.shape == own[name].shape}
    if not matching:
        raise ValueError(f"{folder}: no weight fits the network")
    network.load_state_dict(matching, strict=False)
    print(f"{folder}: {len(matching)} of the network's {len(own)} tensors, {len(given)} in the file", flush=True)


def digest(folder: Path) -> str:
    """SHA-256 of the checkpoint's weights."""
    with (folder / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_replacing(tensors: dict[str, Tensor], path: Path) -> None:
    """Writes a safetensors file beside `path` and renames it, so that a crash leaves the old file or the new one."""
    partial = path.with_name(f"{path.name}.partial")
    save_file({name: torch.as_tensor(t).detach().contiguous() for name, t in tensors.items()}, partial)
    partial.replace(path)
