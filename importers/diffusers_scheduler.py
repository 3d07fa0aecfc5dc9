"""What a diffusers scheduler's configuration says of a model: the schedule, the prediction, the sampler."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import diffusers
import numpy as np
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers

from importers.diffusers_config import Config, class_name, scheduler_config
from importers.imported import Continuous, Discrete, Prediction
from importers.openai_checkpoint import preconditioning
from importers.problems import ImportProblem

PREDICTIONS: Mapping[str, Prediction] = {"epsilon": "epsilon", "sample": "x0", "v_prediction": "v"}
SAMPLERS = {"DDPMScheduler": "ddpm", "DDIMScheduler": "ddim"}
CONSISTENCY = "CMStochasticIterativeScheduler"


@dataclass(frozen=True)
class Sampling:
    """The parts of an `Imported` that a scheduler settles; `settings` is its whole configuration."""

    prediction: Prediction
    schedule: Discrete | Continuous
    sampler: str
    settings: Mapping[str, Any]
    variance: str
    clip: float


def sampling(config: Config, pipeline: str, source: str) -> Sampling:
    """What to sample with. Raises ImportProblem for a scheduler that is not one of T timesteps.

    DDIMPipeline makes a DDIMScheduler of whatever it is given, and so does this where the scheduler is of a solver that
    is not DDPM's or DDIM's.
    """
    name = class_name(config)
    if name == CONSISTENCY:
        return consistency(scheduler_config(config, diffusers.CMStochasticIterativeScheduler, source))
    if name not in {member.name for member in KarrasDiffusionSchedulers}:
        raise ImportProblem(f"{source}: the scheduler is a {name}, which has no T timesteps of DDPM")
    original = getattr(diffusers, name)
    try:
        scheduler = original.from_config(scheduler_config(config, original, source))
        if name not in SAMPLERS or pipeline == "DDIMPipeline":
            scheduler = diffusers.DDIMScheduler.from_config(scheduler.config)
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise ImportProblem(f"{source}: {name} does not take it ({error})") from error
    return timesteps(scheduler, source)


def timesteps(scheduler: Any, source: str) -> Sampling:
    """Of a DDPMScheduler or a DDIMScheduler."""
    settings = {key: value for key, value in scheduler.config.items() if not key.startswith("_")}
    if settings["prediction_type"] not in PREDICTIONS:
        raise ImportProblem(f"{source}: prediction_type is {settings['prediction_type']}")
    # As diffusers computes them, in float32: near t = 0 the rounding of 1 - ᾱ is seen in the images.
    betas, alphas_cumprod = (array.double().numpy() for array in (scheduler.betas, scheduler.alphas_cumprod))
    return Sampling(
        prediction=PREDICTIONS[settings["prediction_type"]],
        schedule=Discrete(betas, alphas_cumprod, np.arange(len(betas), dtype=np.float64)),
        sampler=SAMPLERS[type(scheduler).__name__],
        settings=settings,
        variance=settings.get("variance_type", "fixed_small"),
        clip=settings["clip_sample_range"] if settings["clip_sample"] and not settings["thresholding"] else math.inf,
    )


def consistency(config: Config) -> Sampling:
    """Of a consistency model."""
    scheduler = diffusers.CMStochasticIterativeScheduler.from_config(config)
    settings = {key: value for key, value in scheduler.config.items() if not key.startswith("_")}
    low, high = settings["sigma_min"], settings["sigma_max"]
    # diffusers, unlike the original, takes the logarithm in float64.
    numbers = preconditioning(low) | {"sigma_data": settings["sigma_data"], "noise_dtype": "float64"}
    return Sampling(
        prediction="F",
        schedule=Continuous(low, high, numbers),
        sampler="multistep",
        settings={**settings, "steps": settings["num_train_timesteps"]},
        variance="none",
        clip=1.0 if settings["clip_denoised"] else math.inf,
    )
