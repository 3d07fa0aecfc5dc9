"""Whether a manifest's model can be sampled as the manifest says."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bundle.manifest import AUTO, DECODE, ENCODE, STEP, Default, Manifest, MeasuredPoint
from models import families
from models.families import Family
from models.solvers import SettingValues, Solver
from models.step import Plan, Step

MAX_STEPS = 4096  # network evaluations an image
MAX_ENTRIES = MAX_STEPS + 1  # of a list or an object in a noise schedule
MAX_TEXT = 200
CLIP = Step._fields.index("clip")  # which may be infinite


def check_sampling(manifest: Manifest) -> None:
    """Raises ValueError, or what a family's plans raise, unless the model can be sampled as the manifest says."""
    if manifest.name == AUTO:
        raise ValueError(f"the name {AUTO!r} is taken: with it callers let the service choose")
    if STEP not in manifest.files:
        raise ValueError(f"files: it lists no {STEP}")
    if manifest.state_shape != manifest.shape and DECODE not in manifest.files:
        raise ValueError(f"files: a state_shape that is not the images' shape needs {DECODE}")
    sides = zip(manifest.shape[1:], manifest.state_shape[1:], strict=True)
    if ENCODE in manifest.files and any(side % reduced for side, reduced in sides):
        raise ValueError(f"files: with {ENCODE} the sides of a state divide those of an image")
    if manifest.family not in families.names():
        raise ValueError(f"family {manifest.family!r} is unknown; known: {', '.join(families.names())}")
    _check_values(manifest.noise_schedule, "noise_schedule")
    family = families.find(manifest.family)
    solvers = families.solvers(manifest.family, manifest.noise_schedule)
    if not solvers:
        raise ValueError("noise_schedule: it names no solver")
    max_steps = check_plans(family, solvers, manifest.noise_schedule)
    if manifest.recommended_steps > max_steps:
        raise ValueError(f"recommended_steps: the noise schedule has plans of at most {max_steps} steps")
    if manifest.default is not None:
        check_default(manifest.default, solvers, max_steps)
    for point in manifest.measured.points:
        check_point(point, solvers, max_steps)


def check_plans(family: Family, solvers: Mapping[str, Solver], schedule: dict[str, Any]) -> int:
    """The largest number of steps. Raises ValueError, or what a plan raises, for one that a request could ask for.

    Each solver is tried with 1 step and with the largest number, at its defaults and at both ends of its settings; one
    that has plans of some numbers of steps alone, with all of these.
    Among these are plans that visit all of the schedule and draw noise, which refuse one that does not fall or rise.
    """
    max_steps = family.max_steps(schedule)
    if not 1 <= max_steps <= MAX_STEPS:
        raise ValueError(f"noise_schedule: it has plans of 1 to {max_steps} steps; the most are {MAX_STEPS}")
    with np.errstate(all="ignore"):  # a plan refuses what is not finite
        for name, solver in solvers.items():
            if solver.steps and not 1 <= solver.steps[0] <= solver.steps[-1] <= max_steps:
                raise ValueError(f"noise_schedule: {name} has plans of more steps than {max_steps}")
            for settings in _ends(solver):
                for steps in solver.steps or {1, max_steps}:
                    if not _fits(solver.plan(schedule, steps, **dict(settings))):
                        raise ValueError(f"noise_schedule: float32 cannot hold the plan of {name} in {steps} steps")
    return max_steps


def check_default(default: Default, solvers: Mapping[str, Solver], max_steps: int) -> None:
    """Raises ValueError unless the model can be sampled so."""
    if default.solver not in solvers:
        raise ValueError(f"default: there is no solver {default.solver!r}")
    if default.steps > max_steps or default.steps not in (solvers[default.solver].steps or [default.steps]):
        raise ValueError(f"default: {default.solver} has no plan of {default.steps} steps")


def check_point(point: MeasuredPoint, solvers: Mapping[str, Solver], max_steps: int) -> None:
    """Raises ValueError unless the model can be sampled so."""
    if point.solver not in solvers:
        raise ValueError(f"measured: there is no solver {point.solver!r}")
    if point.steps > max_steps:
        raise ValueError(f"measured: {point.steps} steps, of at most {max_steps}")
    if point.steps not in (solvers[point.solver].steps or [point.steps]):
        raise ValueError(f"measured: {point.solver} has no plan of {point.steps} steps")
    settings = solvers[point.solver].settings
    for name, value in point.settings.items():
        if name not in settings or not settings[name].low <= value <= settings[name].high:
            raise ValueError(f"measured: {point.solver} does not take {name[:MAX_TEXT]!r} = {value}")


def _check_values(value: Any, place: str) -> None:
    """Raises ValueError unless a schedule is of finite numbers and short texts, in short lists and objects."""
    if isinstance(value, dict | list):
        if len(value) > MAX_ENTRIES:
            raise ValueError(f"{place}: it has more than {MAX_ENTRIES} entries")
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            _check_values(inner, f"{place}.{key}"[:MAX_TEXT])
    elif isinstance(value, str):
        if len(value) > MAX_TEXT or not value.isprintable():
            raise ValueError(f"{place}: it is no short text")
    elif isinstance(value, int | float) and not _is_finite(value):
        raise ValueError(f"{place}: it is no finite number")


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an int that no float can hold
        return False


def _ends(solver: Solver) -> Iterator[SettingValues]:
    yield solver.defaults
    if solver.settings:
        yield tuple((name, setting.low) for name, setting in solver.settings.items())
        yield tuple((name, setting.high) for name, setting in solver.settings.items())


def _fits(plan: Plan) -> bool:
    """Whether the network's numbers can hold the plan."""
    return bool(np.isfinite(np.delete(np.array(plan, dtype=np.float32), CLIP, axis=1)).all())
