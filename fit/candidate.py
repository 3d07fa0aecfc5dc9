"""A plan as numbers to fit: the time of each step, with the coefficients that a solver has for these times."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from fit.times import Times
from models import solvers
from models.schedules import Vector
from models.step import Plan

SOLVERS: Mapping[str, Callable[[Vector, Vector, Vector], Plan]] = {
    "dpmpp_2m": solvers.dpmpp_2m,
    "unipc": solvers.unipc,
    "deis": solvers.deis,
    **{f"ddim eta={eta:g}": partial(solvers.ddim, eta=eta) for eta in (0.0, 0.5, 1.0)},
}
OF_X0 = ("t", "x0_from_x", "x0_from_out", "clip", "network_from_x")  # columns that a time decides alone
SMALL = 0.008  # change of a time for a difference quotient, in parts of the whole schedule


@dataclass(frozen=True)
class Candidate:
    """`rows` is the plan of the most steps; `times` are places in it."""

    rows: Plan
    solver: str
    times: Times

    def plan(self) -> Plan:
        assert self.rows.signal is not None
        abar_t = np.square(self.rows.signal[0][self.times])
        rows = [self.rows[place] for place in self.times]
        steps = SOLVERS[self.solver](np.array([row.t for row in rows]), abar_t, np.append(abar_t[1:], 1.0))
        return Plan(
            k._replace(**{name: getattr(row, name) for name in OF_X0}) for k, row in zip(steps, rows, strict=True)
        )

    @property
    def small(self) -> int:
        return max(1, round(SMALL * len(self.rows)))

    def moved(self, changes: Vector) -> "Candidate":
        """With each time later by its change; times stay in order, and apart."""
        index = np.arange(len(self.times))
        places = np.round(self.times + changes).astype(np.int64)
        places = np.maximum.accumulate(np.maximum(places, 0) - index) + index
        return Candidate(self.rows, self.solver, np.minimum(places, len(self.rows) - len(index) + index))


def candidates(rows: Plan, times: Iterable[Times]) -> Iterator[Candidate]:
    """Each solver at each of these times."""
    for places in times:
        for name in SOLVERS:
            yield Candidate(rows, name, places)
