"""Imports variational diffusion models' checkpoints (google-research/vdm): msgpack, written by flax."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from importers import cards, flax_msgpack
from importers.cards import Card
from importers.imported import Imported, Vector
from importers.networks import vdm_unet
from importers.problems import ImportProblem
from importers.weights import fill

KNOTS = 1001  # of γ: between two of these, a line is off by 2e-6
NAMES = {"kernel": "weight", "scale": "weight"}  # of flax's parameters, in PyTorch
AXES = {2: (1, 0), 4: (3, 2, 0, 1)}  # of flax's kernels, as PyTorch has them: (out, in), (out, in, height, width)


class Flags(vdm_unet.Settings):
    """`config.model` of the original, and the size of the images, which neither the file nor the network has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_size: int = Field(32, ge=1, le=4096)
    sm_n_timesteps: int = Field(0, ge=0)  # 0: trained in continuous time
    sample_softmax: bool = False  # pixels are drawn at the end; here the most likely is taken
    antithetic_time_sampling: bool = True  # in training only, as the next one is
    sm_pdrop: float = 0.0


@dataclass(frozen=True)
class Gamma:
    """γ = −log SNR at even times from 0 to 1, rising: (KNOTS,) float64. Between them it is linear."""

    gamma: Vector


class PixelValues(nn.Module):
    """z_0 → the most likely image of whole pixel values, in [−1, 1].

    The original has a logit −(z_0/α_0 − x_v)²/2σ² for each value v, at x_v = (2v + 1)/V − 1, and takes the largest: so
    the nearest x_v, the lower one of two as near.
    """

    def __init__(self, values: int, gamma_0: float) -> None:
        super().__init__()
        self.values = values
        self.alpha = float(torch.sigmoid(torch.tensor(-gamma_0, dtype=torch.float64)).sqrt())

    def decode(self, z: Tensor) -> Tensor:
        value = ((z / self.alpha + 1) * (self.values / 2) - 1).ceil().clamp(0, self.values - 1)
        return value * (2 / (self.values - 1)) - 1


def load(path: Path, card: Card) -> Imported:
    """The model in a checkpoint, with what the card says of it. Raises ImportProblem."""
    flags = cards.parse(card.settings, Flags, f"the card for {path.name}: settings")
    state = parameters(flax_msgpack.read(path), path.name)
    gamma = schedule(flags, {name: value for name, value in state.items() if name.startswith("gamma.")}, path.name)
    score = {name: value for name, value in state.items() if not name.startswith("gamma.")}
    return Imported(
        format=card.format,
        network=fill(lambda: vdm_unet.ScoreNetwork(flags), renamed(score), path.name),
        shape=(flags.channels, flags.image_size, flags.image_size),
        prediction="epsilon",
        schedule=gamma,
        sampler="ancestral",
        settings={"steps": flags.sm_n_timesteps or 1000},
        decoder=PixelValues(flags.vocab_size, float(gamma.gamma[0])),
        facts={"data": card.data, "licence": card.licence, "source": card.source},
    )


def parameters(content: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """The averaged parameters as flax names and lays them, with dots between the names."""
    tree = content.get("ema_params", content.get("params"))
    if not isinstance(tree, Mapping):
        names = ", ".join(map(str, list(content)[:4])) or "nothing"
        raise ImportProblem(f"{source}: no ema_params or params in it, but {names}")
    return dict(flax_msgpack.tensors(tree, source))


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """flax's parameters as PyTorch names and lays them; the network's own prefix is left out."""
    result = {}
    for path, value in state.items():
        module, _, name = path.removeprefix("score_model.").removeprefix("gamma.").rpartition(".")
        laid = value.permute(AXES[value.ndim]) if name == "kernel" and value.ndim in AXES else value
        result[f"{module}.{NAMES.get(name, name)}".lstrip(".")] = laid.contiguous()
    return result


def schedule(flags: Flags, state: Mapping[str, Tensor], source: str) -> Gamma:
    """The schedule of the card's type, learned or not, at its knots."""
    kinds: dict[Literal["fixed", "learnable_scalar", "learnable_nnet"], Any] = {
        "fixed": lambda: vdm_unet.FixedSchedule(flags),
        "learnable_scalar": vdm_unet.ScalarSchedule,
        "learnable_nnet": vdm_unet.NetworkSchedule,
    }
    network = fill(kinds[flags.gamma_type], renamed(state), f"{source}: gamma")
    with torch.inference_mode():
        return Gamma(network.double()(torch.linspace(0, 1, KNOTS, dtype=torch.float64)).numpy())
