"""The card of a model that is to be trained: every setting resolved and checked before the first batch."""

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import nn

from models import checkpoint, families
from models.checkpoint import Card
from models.data import Dataset
from models.failures import TrainError
from models.sample import sample
from models.step import Plan
from models.train import Settings

PACKAGES = ("torch", "diffusers", "numpy", "safetensors")
MOST_PADDING = 64  # pixels that a default size may add
ELSEWHERE = {"output", "data", "start", "save_every"}  # settings that do not decide the weights, or are in by digest


def create(settings: Settings, dataset: Dataset) -> Card:
    """The card, with the family's defaults where a setting is absent. Raises TrainError."""
    family = loss_module(settings.family)
    objective = {**family.OBJECTIVE, **_checked(settings.objective, family.OBJECTIVE)}
    steps = settings.recommended_steps or family.RECOMMENDED_STEPS
    limit = families.find(settings.family).max_steps(family.SCHEDULE)
    if steps > limit:
        raise TrainError(f"--recommended-steps {steps}: {settings.family} has plans of 1 to {limit} steps")
    training = {
        **settings.model_dump(mode="json", exclude=ELSEWHERE),
        "recommended_steps": steps,
        "start": settings.start and checkpoint.digest(settings.start),
        "objective": objective,
        "data_digest": dataset.digest,
        "packages": {name: version(name) for name in PACKAGES},
    }

    def of_size(size: int) -> Card:
        return Card(
            name=settings.name or settings.family,
            family=settings.family,
            shape=(dataset.images.shape[1], size, size),
            classes=dataset.classes,
            noise_schedule=family.SCHEDULE,
            network={**family.network_settings(size), **settings.network},
            recommended_steps=steps,
            training={**training, "size": size},
        )

    height, width = dataset.images.shape[2:]
    smallest = max(height, width)
    if settings.size and settings.size < smallest:
        raise TrainError(f"--size {settings.size}: the images are {height}×{width}: give it {smallest} or more")
    return _first_that_builds(
        [of_size(size) for size in ([settings.size] if settings.size else range(smallest, smallest + MOST_PADDING + 1))]
    )


def loss_module(family: str) -> ModuleType:
    """`models/FAMILY/loss.py`. Raises TrainError, naming the families, if there is none."""
    trainable = [name for name in families.names() if find_spec(f"models.{name}.loss")]
    if family not in trainable:
        raise TrainError(f"--family {family}: the families that can be trained are {', '.join(trainable)}")
    return import_module(f"models.{family}.loss")


def check_one_image(card: Card, network: nn.Module) -> None:
    """Takes one step of one image with a fresh network. Raises TrainError if the network cannot."""
    plan = families.default_plan(card.family, card.noise_schedule, card.recommended_steps)
    try:
        sample(network.eval(), Plan(plan[:1]), torch.zeros(1, dtype=torch.int64), card.state_shape, card.latent, seed=0)
    except (RuntimeError, ValueError, TypeError) as error:
        raise TrainError(f"the network does not take images of {card.shape}: {checkpoint.one_line(error)}") from error
    network.train()


def _checked(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> Mapping[str, Any]:
    for name, value in settings.items():
        if name not in defaults:
            raise TrainError(f"--objective: no setting {name!r}: this family has {list(defaults) or 'none'}")
        if isinstance(value, int | float) != isinstance(defaults[name], int | float):
            raise TrainError(f"--objective: {name} is like {defaults[name]!r}, not {value!r}")
    return settings


def _first_that_builds(cards: Sequence[Card]) -> Card:
    """The first of cards of one model in several sizes whose network takes its size. Raises TrainError."""
    problems = []
    for card in cards:
        try:
            card.build()
            return card
        except ValueError as error:  # a size that does not go, or settings that never do
            problems.append(error)
        except (TypeError, RuntimeError, ArithmeticError, LookupError) as error:
            raise _unbuilt(card, error) from error
    raise _unbuilt(cards[0], problems[0])


def _unbuilt(card: Card, error: Exception) -> TrainError:
    return TrainError(f"{card.family} with --network {json.dumps(card.network)}: {checkpoint.one_line(error)}")
