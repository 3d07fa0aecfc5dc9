"""Imports variational diffusion models' checkpoints (google-research/vdm): msgpack, written by flax."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from importers import cards, flax_msgpack
from importers.cards import Card
from importers.imported import Imported, Vector
from importers.networks import vdm_unet
from importers.networks.vdm_unet import GammaType
from importers.problems import ImportProblem
from importers.weights import fill, size

KNOTS = 1001  # of γ: between two of these, a line is off by 2e-6
NAMES = {"kernel": "weight", "scale": "weight"}  # of flax's parameters, in PyTorch
AXES = {2: (1, 0), 4: (3, 2, 0, 1)}  # of flax's kernels, as PyTorch has them: (out, in), (out, in, height, width)


class Flags(cards.Settings):
    """`config.model` of the original, and the images' size, which neither the file nor the network has.

    What is None is read from the file, and compared with it if it is set.
    """

    image_size: Annotated[int, Field(ge=1, le=4096)] = 32
    gamma_min: float = -13.3  # of these two the network's own times are made
    gamma_max: float = 5.0
    vocab_size: Annotated[int, Field(ge=2, le=65_536)] = 256
    sm_n_timesteps: Annotated[int, Field(ge=0, le=100_000)] = 0  # 0: trained in continuous time
    sample_softmax: bool = False  # pixels are drawn at the end; here the most likely is taken
    channels: int | None = None
    gamma_type: GammaType | None = None
    with_fourier_features: bool | None = None
    with_attention: bool | None = None
    sm_n_embd: int | None = None
    sm_n_layer: int | None = None
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
    flags = card.flags(Flags, path)
    state = parameters(flax_msgpack.read(path), path.name)
    settings = architecture(state, flags, path.name)
    gamma = schedule(settings, {name: value for name, value in state.items() if name.startswith("gamma.")}, path.name)
    score = {name: value for name, value in state.items() if not name.startswith("gamma.")}
    return Imported(
        format=card.format,
        network=fill(lambda: vdm_unet.ScoreNetwork(settings), renamed(score), path.name),
        shape=(settings.channels, flags.image_size, flags.image_size),
        prediction="epsilon",
        schedule=gamma,
        sampler="ancestral",
        settings={"steps": flags.sm_n_timesteps or 1000},
        decoder=PixelValues(flags.vocab_size, float(gamma.gamma[0])),
        facts=card.facts,
    )


def architecture(state: Mapping[str, Tensor], flags: Flags, source: str) -> vdm_unet.Settings:
    """What the parameters show. Raises ImportProblem where the card says something else."""
    channels = size(state, "score_model.conv_out.kernel", 3, source)
    inputs = size(state, "score_model.conv_in.kernel", 2, source)
    shown = {
        "channels": channels,
        "with_fourier_features": inputs > channels,
        "with_attention": "score_model.down.attn_0.q.kernel" in state,
        "gamma_type": gamma_type(state),
        "sm_n_embd": size(state, "score_model.conv_in.kernel", 3, source),
        "sm_n_layer": sum(name.startswith("score_model.down.") and name.endswith(".conv1.kernel") for name in state),
    }
    cards.compare(flags, shown, source, "the parameters say")
    ends = {"gamma_min": flags.gamma_min, "gamma_max": flags.gamma_max}
    return cards.parse(shown | ends, vdm_unet.Settings, source)


def gamma_type(state: Mapping[str, Tensor]) -> GammaType:
    """Which schedule has the parameters that are there."""
    if "gamma.w" in state:
        return "learnable_scalar"
    return "learnable_nnet" if any(name.startswith("gamma.") for name in state) else "fixed"


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


def schedule(settings: vdm_unet.Settings, state: Mapping[str, Tensor], source: str) -> Gamma:
    """The schedule, learned or not, at its knots."""
    kinds: dict[GammaType, Callable[[], nn.Module]] = {
        "fixed": lambda: vdm_unet.FixedSchedule(settings),
        "learnable_scalar": vdm_unet.ScalarSchedule,
        "learnable_nnet": vdm_unet.NetworkSchedule,
    }
    network = fill(kinds[settings.gamma_type], renamed(state), f"{source}: gamma")
    with torch.inference_mode():
        return Gamma(network.double()(torch.linspace(0, 1, KNOTS, dtype=torch.float64)).numpy())
