"""What the manifest says of an imported model's sampling: its family, its schedule, its solvers and their order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bundle.sampling_check import check_plans
from importers.formats import Format
from importers.imported import Continuous, Discrete, Imported
from importers.problems import ImportProblem
from importers.vdm import Gamma
from models import families

RHO = 7.0  # of Karras et al. 2022
# These read more than the last x0, which is what a network that conditions itself on x0 is given.
HIGHER_ORDER = ("dpmpp_3m", "unipc", "deis")
STEPS = 50  # recommended where the format's sampler does not say


@dataclass(frozen=True)
class Sampling:
    """What the manifest has of it; `steps` are the recommended ones."""

    family: str
    noise_schedule: dict[str, Any]
    steps: int


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
    schedule["solvers"] = solvers_of(schedule, model.sampler, () if model.self_condition else HIGHER_ORDER)
    most = families.find("gaussian").max_steps(schedule)
    return Sampling("gaussian", schedule, min(steps_of(model), most))


def solvers_of(schedule: dict[str, Any], first: str, higher_order: Sequence[str]) -> list[str]:
    """The solvers that make plans of it, the format's own first. Raises ImportProblem if that one makes none."""
    family = families.find("gaussian")
    names = ("ddim", "ddpm", "dpmpp_2m", *higher_order)
    others = [name for name in names if name != first and first != "posterior"]
    possible = []
    for name in (first, *others):
        try:
            check_plans(family, {name: family.SOLVERS[name]}, schedule)
            possible.append(name)
        except (KeyError, ValueError, IndexError) as error:
            if name == first:
                raise ImportProblem(f"its sampler {name} makes no plan: {error}") from error
    return possible


def steps_of(model: Imported) -> int:
    """As many as the format's settings have, but no more than STEPS: a caller can ask for all."""
    steps = model.settings.get("steps") or number_of(str(model.settings.get("respacing", ""))) or STEPS
    return min(int(steps), STEPS)


def number_of(text: str) -> int:
    """ "ddim25" → 25; 0 where there is no number."""
    digits = text.removeprefix("ddim")
    return int(digits) if digits.isdecimal() else 0


BASELINES = ("vp", "ve", "iddpm")  # kinds of preconditioning whose own sampler EDM has as a baseline
CHURNING = ("heun", "euler", "dpm")


def continuous(model: Imported, own: Continuous) -> Sampling:
    """Of noise levels."""
    if model.sampler in ("onestep", "multistep"):
        return consistent(model, own)
    settings = model.settings
    first = model.sampler
    others = ["heun", "euler", "dpm", "ancestral"] if model.format == Format.CONSISTENCY else ["heun", "euler"]
    if own.levels is None:  # two levels that are one have no ratio of steps
        others += ["dpmpp_2m", *HIGHER_ORDER]
    if (kind := own.numbers["kind"]) in BASELINES:
        others += [f"{kind}_euler", f"{kind}_heun"]
    schedule = {
        **levels(model, own),
        "churn": churn(settings),
        "solvers": [first, *(name for name in others if name != first)],
    }
    if amount := settings.get("S_churn", settings.get("s_churn")):
        schedule["defaults"] = {name: {"churn": amount} for name in CHURNING if name in schedule["solvers"]}
    return Sampling("karras", schedule, settings.get("num_steps", settings.get("steps", STEPS)))


def levels(model: Imported, own: Continuous) -> dict[str, Any]:
    """What all samplers of noise levels need: within the network's own range, and within the card's."""
    schedule: dict[str, Any] = {
        "format": str(model.format),
        "preconditioning": dict(own.numbers),
        "range": [own.sigma_min, own.sigma_max],
        "sigma_min": max(own.sigma_min, model.settings.get("sigma_min", 0.0)),
        "sigma_max": min(own.sigma_max, model.settings.get("sigma_max", own.sigma_max)),
        "rho": model.settings.get("rho", RHO),
    }
    if not 0 < schedule["sigma_min"] < schedule["sigma_max"]:
        raise ImportProblem(f"no noise levels from {schedule['sigma_min']} to {schedule['sigma_max']}")
    return schedule | ({"clip": model.clip} if np.isfinite(model.clip) else {})


def churn(settings: Mapping[str, Any]) -> dict[str, float]:
    """S_min, S_max and S_noise, by either repository's names; an S_max that is infinite is left out."""
    names = {"S_min": "s_tmin", "S_max": "s_tmax", "S_noise": "s_noise"}
    values = {name: float(settings.get(name, settings.get(other, 0.0))) for name, other in names.items()}
    return {name: value for name, value in values.items() if np.isfinite(value)}


def consistent(model: Imported, own: Continuous) -> Sampling:
    """Of a model that gives a clean image in one step."""
    settings, places = model.settings, list(model.settings.get("ts") or ())
    last = settings["steps"] - 1
    if last < 1 or places != sorted(set(places)) or (places and not 0 <= places[0] < places[-1] <= last):
        raise ImportProblem(f"ts = {places}: not places that rise among {settings['steps']} levels")
    schedule = {**levels(model, own), "scale_steps": settings["steps"], "solvers": ["multistep"]}
    if model.format == Format.DIFFUSERS and settings["s_noise"] != 1:
        schedule["churn"] = {"S_noise": settings["s_noise"]}
    if places:
        schedule["ts"] = places
    return Sampling("karras", schedule, len(places) - 1 if places and model.sampler == "multistep" else 1)
