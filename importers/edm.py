"""Imports EDM's pickles: SongUNet and DhariwalUNet with VP, VE, iDDPM or EDM preconditioning (arXiv 2206.00364)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from importers.cards import Card, Settings, parse
from importers.edm_pickle import Module, read_module
from importers.edm_preconditioning import PRECONDITIONING, Precondition
from importers.formats import Format
from importers.imported import Continuous, Imported
from importers.networks.edm_blocks import Layout
from importers.networks.edm_dhariwal import DhariwalUNet
from importers.networks.edm_song import SongOptions, SongUNet
from importers.problems import ImportProblem
from importers.weights import fill, weights

Count = Annotated[int, Field(ge=1, le=4096)]
Few = Annotated[int, Field(ge=1, le=64)]


class Arguments(BaseModel):
    """What a published network was made with, by the names in the pickle; those of training say nothing here."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    img_resolution: Count
    in_channels: Count
    out_channels: Count
    label_dim: Annotated[int, Field(ge=0, le=100_000)] = 0
    augment_dim: Annotated[int, Field(ge=0, le=1000)] = 0
    model_channels: Count
    channel_mult: Annotated[tuple[Few, ...], Field(min_length=1, max_length=12)]
    channel_mult_emb: Few = 4
    num_blocks: Few
    attn_resolutions: tuple[int, ...]
    dropout: float = 0.1
    label_dropout: float = 0.0

    def layout(self) -> Layout:
        """As the networks here take it."""
        return Layout(**{name: getattr(self, name) for name in Layout.__dataclass_fields__})


class DhariwalArguments(Arguments):
    """Of a DhariwalUNet."""

    model_channels: Count = 192
    channel_mult: Annotated[tuple[Few, ...], Field(min_length=1, max_length=12)] = (1, 2, 3, 4)
    num_blocks: Few = 3
    attn_resolutions: tuple[int, ...] = (32, 16, 8)

    def build(self) -> nn.Module:
        """The network, without its weights."""
        return DhariwalUNet(self.layout())


class SongArguments(Arguments):
    """Of a SongUNet."""

    model_channels: Count = 128
    channel_mult: Annotated[tuple[Few, ...], Field(min_length=1, max_length=12)] = (1, 2, 2, 2)
    num_blocks: Few = 4
    attn_resolutions: tuple[int, ...] = (16,)
    embedding_type: Literal["positional", "fourier"] = "positional"
    channel_mult_noise: Few = 1
    encoder_type: Literal["standard", "skip", "residual"] = "standard"
    decoder_type: Literal["standard", "skip"] = "standard"
    resample_filter: Annotated[tuple[float, ...], Field(min_length=1, max_length=16)] = (1.0, 1.0)

    def build(self) -> nn.Module:
        """The network, without its weights; the filter's taps are among those."""
        options = SongOptions(
            self.embedding_type,
            self.channel_mult_noise,
            self.encoder_type,
            self.decoder_type,
            len(self.resample_filter),
        )
        return SongUNet(self.layout(), options)


NETWORKS: Mapping[str, type[DhariwalArguments] | type[SongArguments]] = {
    "DhariwalUNet": DhariwalArguments,
    "SongUNet": SongArguments,
}


class SamplerSettings(Settings):
    """generate.py's options, which a card may set."""

    num_steps: Annotated[int, Field(ge=1, le=10_000)] = 18
    sigma_min: Annotated[float, Field(gt=0)] = 0.002
    sigma_max: Annotated[float, Field(gt=0)] = 80.0
    rho: Annotated[float, Field(gt=0)] = 7.0
    S_churn: float = 0.0
    S_min: float = 0.0
    S_max: float = float("inf")
    S_noise: float = 1.0


def load(path: Path, card: Card) -> Imported:
    """The EMA network in a pickle, which says all of itself but its classes' names. Raises ImportProblem."""
    settings = card.flags(SamplerSettings, path)
    outer = read_module(path, "ema")
    inner = outer.modules.get("model")
    if outer.class_name not in PRECONDITIONING or inner is None or inner.class_name not in NETWORKS:
        seen = f"a {outer.class_name} of a {inner.class_name if inner else 'nothing'}"
        raise ImportProblem(f"{path.name}: {seen}, not one of {', '.join((*PRECONDITIONING, *NETWORKS))}")
    arguments = parse(inner.arguments, NETWORKS[inner.class_name], f"{path.name}: {inner.class_name}")
    own = parse(numbers_of(outer), PRECONDITIONING[outer.class_name], f"{path.name}: {outer.class_name}")
    state = weights(outer.weights, path.name)
    network = fill(arguments.build, {name: state[f"model.{name}"] for name in inner.weights}, path.name)
    numbers = own.numbers() | levels_of(own, state, path.name)
    classes = card.names(arguments.label_dim)
    if len(classes) != arguments.label_dim:
        raise ImportProblem(f"the card names {len(classes)} classes, the network has {arguments.label_dim}")
    return Imported(
        format=Format.EDM,
        network=network,
        shape=(arguments.in_channels, arguments.img_resolution, arguments.img_resolution),
        prediction="F",
        schedule=Continuous(own.sigma_min, own.sigma_max, numbers),
        sampler="heun",
        settings=settings.model_dump(),
        classes=classes,
        unconditional=not classes or arguments.label_dropout > 0,
        variance="learned_range" if arguments.out_channels == 2 * arguments.in_channels else "none",
        facts={**card.facts, "network": f"{outer.class_name}, {inner.class_name}"},
    )


def numbers_of(module: Module) -> dict[str, Any]:
    """The attributes of a module that are numbers."""
    attributes = module.attributes.items()
    return {name: value for name, value in attributes if isinstance(value, int | float) and not isinstance(value, bool)}


def levels_of(own: Precondition, state: Mapping[str, Tensor], source: str) -> dict[str, list[float]]:
    """iDDPM's σ, the only ones its network knows."""
    if not own.discrete:
        return {}
    levels = state.get("u")
    if levels is None or levels.ndim != 1 or not 2 <= len(levels) <= 100_000:
        raise ImportProblem(f"{source}: no table of its noise levels")
    return {"levels": levels.double().tolist()}
