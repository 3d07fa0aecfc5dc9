"""Plans that `./run fit` made for one model: tables in its noise schedule, by their number of steps. NumPy only.

`schedule["fitted"]` is `{"3": [row, row, row], …}`. A row has a `Step`'s columns by name; those at their default are
left out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from models.schedules import Vector
from models.solvers import Solver
from models.step import HISTORY, Plan, Step

NAME, TABLES = "fitted", "fitted"  # of the solver, and of the schedule's member
TOLERANCE = 1e-9


def solver(schedule: Mapping[str, Any]) -> Solver:
    """The solver of these tables. Raises ValueError for a number of steps that is none, or not that of its rows."""
    if not isinstance(schedule[TABLES], Mapping) or not schedule[TABLES]:
        raise ValueError(f"noise_schedule: {TABLES} has no plans")
    counts = tuple(sorted(int(steps) for steps in schedule[TABLES]))
    return Solver(plan, "fitted to this model for these numbers of steps alone", steps=counts)


def plan(schedule: Mapping[str, Any], steps: int) -> Plan:
    """The plan of this many steps. Raises KeyError if there is none, TypeError for a column that no step has."""
    rows = schedule[TABLES][str(steps)]
    if len(rows) != steps:
        raise ValueError(f"noise_schedule: the fitted plan of {steps} steps has {len(rows)} rows")
    return checked([Step(**row) for row in rows])


def checked(rows: Sequence[Step]) -> Plan:
    """The rows as a plan. Raises ValueError unless the last one ends at a mean of the x0.

    So a constant x0 comes out as itself, whatever the steps before did with it, and no noise is left.
    """
    fitted, last = Plan(rows), rows[-1]
    mean = last.x_from_x0 + sum(getattr(last, name) for name in HISTORY)
    if abs(mean - 1) > TOLERANCE or last.x_from_x or last.x_from_out or last.noise_std:
        raise ValueError(f"the last step of a fitted plan is no mean of the x0: {last}")
    return fitted


def signal(plan: Plan, alpha: float, sigma: float) -> tuple[Vector, Vector]:
    """α and σ of the state x = α·x0 + σ·ε at the start of each step, (steps,) each, from those of the first.

    A fitted step may look at another time than that of its state, so they follow from the weights, for a constant x0.
    """
    levels = [(alpha, sigma)]
    for k in plan[:-1]:
        of_x0 = k.x_from_x0 + sum(getattr(k, name) for name in HISTORY)
        levels.append((k.x_from_x * levels[-1][0] + of_x0, float(np.hypot(k.x_from_x * levels[-1][1], k.noise_std))))
    alphas, sigmas = np.array(levels).T
    return alphas, sigmas


def with_plan(schedule: Mapping[str, Any], fitted: Plan) -> dict[str, Any]:
    """The schedule with this plan, in place of one of as many steps."""
    rows = [{name: value for name, value in step._asdict().items() if value != DEFAULTS.get(name)} for step in fitted]
    tables = {**schedule.get(TABLES, {}), str(len(fitted)): rows}
    return {**schedule, TABLES: dict(sorted(tables.items(), key=lambda item: int(item[0])))}


DEFAULTS: Mapping[str, Any] = Step._field_defaults
