"""What the manifest says of an imported model's sampling: its family, its schedule, its solvers and their order."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from importers.imported import Continuous, Discrete, Imported
from importers.problems import ImportProblem
from importers.vdm import Gamma
from models import families

STEPS = 50  # recommended where the format's sampler does not say


@dataclass(frozen=True)
class Sampling:
    """`scale`: what the network's input is, in units of the state."""

    family: str
    noise_schedule: dict[str, Any]
    steps: int
    scale: float = 1.0


def sampling(model: Imported) -> Sampling:
    """Raises ImportProblem for a sampler that no plan reproduces."""
    match model.schedule:
        case Discrete():
            return discrete(model, model.schedule)
        case Gamma():
            schedule = {"gamma": model.schedule.gamma.tolist(), "solvers": ["sample"]}
            return Sampling("vdm", schedule, STEPS)
        case Continuous():
            return continuous(model, model.schedule)
    raise ImportProblem(f"a schedule of {type(model.schedule).__name__}, which no family here has")


def discrete(model: Imported, own: Discrete) -> Sampling:
    """Of T timesteps."""
    if model.settings.get("thresholding"):
        raise ImportProblem("its scheduler has dynamic thresholding, which no plan reproduces")
    if model.format == "diffusers" and model.variance == "learned":
        raise ImportProblem("its scheduler takes the variance itself as learned, which no plan reproduces")
    schedule: dict[str, Any] = {
        "format": str(model.format),
        "alphas_cumprod": own.alphas_cumprod.tolist(),
        "prediction": model.prediction,
        "variance": model.variance,
    }
    if not np.array_equal(own.times, np.arange(len(own.times))):
        schedule["times"] = own.times.tolist()
    if np.isfinite(model.clip):
        schedule["clip"] = model.clip
    names = ("timestep_spacing", "steps_offset", "set_alpha_to_one", "spacing")
    schedule["settings"] = {name: model.settings[name] for name in names if name in model.settings}
    schedule["solvers"] = possible(schedule, model.sampler)
    most = families.find("gaussian").max_steps(schedule)
    return Sampling("gaussian", schedule, min(steps_of(model), most))


def possible(schedule: dict[str, Any], first: str) -> list[str]:
    """The solvers that make plans of it, the format's own first. Raises ImportProblem if that one makes none."""
    family = families.find("gaussian")
    others = [name for name in ("ddim", "ddpm", "dpmpp_2m") if name != first and first != "posterior"]
    names = []
    for name in (first, *others):
        solver = family.SOLVERS[name]
        try:
            with np.errstate(all="ignore"):
                for steps in {1, family.max_steps(schedule)}:
                    solver.plan(schedule, steps, **dict(solver.defaults))
            names.append(name)
        except (KeyError, ValueError, IndexError) as error:
            if name == first:
                raise ImportProblem(f"its sampler {name} makes no plan: {error}") from error
    return names


def steps_of(model: Imported) -> int:
    """As many as the format's settings have, but no more than STEPS: a caller can ask for all."""
    steps = model.settings.get("steps") or re_digits(str(model.settings.get("respacing", ""))) or STEPS
    return min(int(steps), STEPS)


def re_digits(text: str) -> int:
    """ "ddim25" → 25; 0 where there is no number."""
    digits = text.removeprefix("ddim")
    return int(digits) if digits.isdecimal() else 0


def continuous(model: Imported, own: Continuous) -> Sampling:
    """Of noise levels."""
    raise ImportProblem("models of noise levels (EDM, consistency) cannot be sampled yet")
