"""The families: a family is a folder of this package with a `plan.py`."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

from models import fitted
from models.bound import Bound
from models.solvers import Solver
from models.step import Plan


class Point(NamedTuple):
    """A way of sampling that `./run evaluate` measures; settings that are missing have their defaults."""

    solver: str
    steps: int
    settings: Mapping[str, float] = {}


class Family(Protocol):
    """What `models/FAMILY/plan.py` provides. `schedule` is the manifest's `noise_schedule`."""

    SOLVERS: Mapping[str, Solver]  # the first one is the default
    POINTS: Sequence[Point]

    def max_steps(self, schedule: Mapping[str, Any]) -> int:
        """The largest number of steps that a plan of this schedule can have."""
        ...

    # A family that takes images also has
    #     def signal(self, schedule, plan) -> tuple[Vector, Vector]
    # α and σ of the state x = α·x0 + σ·ε at the start of each step of a plan.


def names() -> list[str]:
    """All families, in alphabetical order."""
    return sorted(path.parent.name for path in Path(__file__).parent.glob("*/plan.py"))


def find(name: str) -> Family:
    """The family's `plan` module. Raises KeyError, which names all families, if there is no such family."""
    if name not in names():
        raise KeyError(f"no family {name!r}: the families are {', '.join(names())}")
    return cast(Family, import_module(f"models.{name}.plan"))


def solvers(name: str, schedule: Mapping[str, Any]) -> Mapping[str, Solver]:
    """What a model is sampled with: the family's solvers, or those of them that `schedule["solvers"]` names in order.

    The first one is the default. `schedule["defaults"]` has, by solver, settings whose default is the model's own. Last
    comes `fitted`, where the schedule has plans fitted to the model.
    Raises KeyError for a solver that the family does not have, and ValueError for a default out of its range.
    """
    own, defaults = find(name).SOLVERS, schedule.get("defaults", {})
    solvers = {each: own[each].with_defaults(defaults.get(each, {})) for each in schedule.get("solvers", own)}
    return {**solvers, fitted.NAME: fitted.solver(schedule)} if fitted.TABLES in schedule else solvers


def bound(name: str, schedule: Mapping[str, Any]) -> Bound | None:
    """The bound on a model's likelihood; None where the family, or this schedule, has none."""
    make = getattr(find(name), "bound", None)
    return None if make is None else make(schedule)


def default_plan(name: str, schedule: Mapping[str, Any], steps: int) -> Plan:
    """The family's plan by its first solver, with that solver's default settings."""
    solver = next(iter(solvers(name, schedule).values()))
    return solver.plan(schedule, steps, **dict(solver.defaults))
