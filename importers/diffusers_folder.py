"""Imports a folder that diffusers wrote: UNet2DModel, latent diffusion, DiT and consistency pipelines."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
from torch import Tensor, nn

from importers import diffusers_config
from importers.cards import Card, Settings, parse
from importers.diffusers_config import Config, class_name
from importers.diffusers_scheduler import sampling
from importers.formats import Format
from importers.imported import Imported, Shape
from importers.networks.diffusers_networks import Decoder, TransformerNetwork, UNetNetwork
from importers.problems import ImportProblem
from importers.reading import read_safetensors, read_torch
from importers.weights import fill, weights

NETWORKS = ("unet", "transformer")
AUTOENCODERS = ("vqvae", "vae")
CLASSES = {
    name: getattr(diffusers, name) for name in ("UNet2DModel", "DiTTransformer2DModel", "VQModel", "AutoencoderKL")
}
WEIGHTS = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.fp16.safetensors",
)


class DiffusersSettings(Settings):
    """What a folder may lack."""

    sample_size: int | tuple[int, int] | None = None
    scheduler: dict[str, Any] | None = None  # as scheduler_config.json has it


def load(folder: Path, card: Card) -> Imported:
    """The model in a pipeline's folder, or in a flat one as the first versions wrote it. Raises ImportProblem."""
    settings = parse(card.settings, DiffusersSettings, "the card: settings")
    index_path = folder / "model_index.json"
    index = diffusers_config.read(index_path) if index_path.is_file() else {}
    module = component(folder, NETWORKS)
    if module is None:
        raise ImportProblem(f"{folder.name}: no config.json of a network, neither here nor in {' or '.join(NETWORKS)}")
    autoencoder = component(folder, AUTOENCODERS)
    chosen = sampling(settings.scheduler or scheduler_of(folder), class_name(index), folder.name)
    state_shape = shape_of(module, settings)
    classes, unconditional = classes_of(module, index, card.classes)
    return Imported(
        format=Format.DIFFUSERS,
        network=UNetNetwork(module) if isinstance(module, CLASSES["UNet2DModel"]) else TransformerNetwork(module),
        shape=image_shape(state_shape, autoencoder),
        prediction=chosen.prediction,
        schedule=chosen.schedule,
        sampler=chosen.sampler,
        settings=chosen.settings,
        classes=classes,
        unconditional=unconditional,
        variance="learned_range" if module.config.out_channels == 2 * state_shape[0] else chosen.variance,
        clip=chosen.clip,
        decoder=Decoder(autoencoder) if autoencoder else None,
        latent_shape=state_shape if autoencoder else None,
        facts={**card.facts, "pipeline": class_name(index), "version": index.get("_diffusers_version", "")},
    )


def scheduler_of(folder: Path) -> Config:
    """The scheduler's configuration: in its folder, or in the root, as the first versions had it."""
    for path in (folder / "scheduler" / "scheduler_config.json", folder / "scheduler_config.json"):
        if path.is_file():
            return diffusers_config.read(path)
    raise ImportProblem(f"{folder.name}: no scheduler_config.json; a card can have a scheduler in its settings")


def component(folder: Path, names: tuple[str, ...]) -> Any:
    """The module, with its weights, of the component that has one of `names`; None if there is none.

    The first versions put the network into the root.
    """
    for own in (folder / name for name in names):
        if (own / "config.json").is_file():
            return read_module(own)
    return read_module(folder) if names == NETWORKS and (folder / "config.json").is_file() else None


def read_module(folder: Path) -> Any:
    """A component, from its own folder."""
    config, source = diffusers_config.read(folder / "config.json"), f"{folder.name}/config.json"
    name = class_name(config)
    if name not in CLASSES:
        raise ImportProblem(f"{source}: a {name}, not one of {', '.join(CLASSES)}")
    arguments = diffusers_config.network_config(config, CLASSES[name], source)
    state = read_weights(folder)
    layers = [arguments.get(key, 0) for key in ("layers_per_block", "num_layers")]
    if any(not isinstance(count, int) or count > len(state) for count in layers):
        raise ImportProblem(f"{source}: more layers than the weights have, {max(layers, key=str)}")
    return fill(lambda: build(CLASSES[name], arguments, source), state, folder.name)


def build(network: Any, arguments: Config, source: str) -> nn.Module:
    """A module of diffusers. Raises ImportProblem if its class does not take the arguments."""
    try:
        module: nn.Module = network.from_config(arguments)
    except (AttributeError, KeyError, NotImplementedError, TypeError, ValueError) as error:
        raise ImportProblem(f"{source}: {network.__name__} does not take it ({error})") from error
    return module


def read_weights(folder: Path) -> dict[str, Tensor]:
    """A component's weights by today's names."""
    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise ImportProblem(f"{folder.name}: it has none of {', '.join(WEIGHTS)}")
    state = weights(read_safetensors(path) if path.suffix == ".safetensors" else read_torch(path), path.name)
    named = {diffusers_config.todays_name(name): tensor for name, tensor in state.items()}
    # The first versions saved a downsampling convolution twice, as `conv` and as `op`.
    return {
        name: tensor for name, tensor in named.items() if name.replace(".op.", ".conv.") not in named.keys() - {name}
    }


def shape_of(module: Any, settings: DiffusersSettings) -> Shape:
    """(C, H, W) of what is denoised."""
    size = module.config.sample_size or settings.sample_size
    if size is None:
        raise ImportProblem("config.json: no sample_size; a card can have it in its settings")
    height, width = (size, size) if isinstance(size, int) else size
    return int(module.config.in_channels), int(height), int(width)


def image_shape(state: Shape, autoencoder: Any) -> Shape:
    """(C, H, W) of the image that an autoencoder makes of a state, or of the state itself."""
    if autoencoder is None:
        return state
    larger = 2 ** (len(autoencoder.config.block_out_channels) - 1)
    return int(autoencoder.config.out_channels), state[1] * larger, state[2] * larger


def classes_of(module: Any, index: Mapping[str, Any], names: tuple[str, ...]) -> tuple[tuple[str, ...], bool]:
    """The classes' names, and whether "no class" is one that the network was trained with.

    A UNet2DModel's table may have a last row for it; a card that names one class less says so.
    """
    if isinstance(module, CLASSES["DiTTransformer2DModel"]):
        labels = index.get("id2label") or {}
        count = int(module.config.num_embeds_ada_norm)
        names = names or tuple(str(labels.get(str(label), label)) for label in range(count))
        unconditional = True
    elif module.class_embedding is None:
        count, unconditional = 0, True
    elif module.config.class_embed_type is None:
        rows = int(module.config.num_class_embeds)
        unconditional = len(names) == rows - 1
        count = len(names) if unconditional else rows
        names = names or tuple(str(label) for label in range(rows))
    elif module.config.class_embed_type == "timestep" and names:
        count, unconditional = len(names), False
    else:
        raise ImportProblem(
            f"config.json: class_embed_type {module.config.class_embed_type}: a card has to name classes"
        )
    if len(names) != count:
        raise ImportProblem(f"the card names {len(names)} classes, the network has {count}")
    return names, unconditional
