"""Plans that `./run fit` made for one model: tables in its noise schedule, by their number of steps. NumPy only.

`schedule["fitted"]` is `{"3": [row, row, row], …}`. A row has a `Step`'s columns by name; those at their default are
left out.
"""

from collections.abc import Mapping
from typing import Any

from models.solvers import Solver
from models.step import Plan, Step

NAME, TABLES = "fitted", "fitted"  # of the solver, and of the schedule's member


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
    return Plan(Step(**row) for row in rows)


def with_plan(schedule: Mapping[str, Any], fitted: Plan) -> dict[str, Any]:
    """The schedule with this plan, in place of one of as many steps."""
    rows = [{name: value for name, value in step._asdict().items() if value != DEFAULTS.get(name)} for step in fitted]
    tables = {**schedule.get(TABLES, {}), str(len(fitted)): rows}
    return {**schedule, TABLES: dict(sorted(tables.items(), key=lambda item: int(item[0])))}


DEFAULTS: Mapping[str, Any] = Step._field_defaults
