"""A plan as numbers to fit: where each step looks, and how it weighs what it has."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from models import fitted
from models.schedules import Vector
from models.step import HISTORY, Plan, Step

PLACE = "place"  # of a step's time among those of the finest plan
OF_PLACE = ("t", "x0_from_x", "x0_from_out", "clip", "network_from_x")  # columns that a time decides alone
UNIT_OF_PLACE, UNIT_OF_WEIGHT = 0.04, 0.05  # moderate changes: a place in parts of the whole schedule
SMALL = 0.2  # of its unit: a change for a difference quotient


class Number(NamedTuple):
    """What is fitted: a column of a step, or its place."""

    step: int
    column: str


@dataclass(frozen=True)
class Candidate:
    """`finest` is the plan of the most steps. `table` has a row a step: its place there, and the weights of `Step`."""

    finest: Plan
    places: tuple[int, ...]
    weights: tuple[Step, ...]  # of which the columns of a place do not count

    @classmethod
    def near(cls, finest: Plan, plan: Plan) -> "Candidate":
        """The candidate that begins as this plan, each step at the nearest time of the finest."""
        times = np.array([k.t for k in finest])
        return cls(finest, tuple(int(np.abs(times - k.t).argmin()) for k in plan), tuple(plan))

    def plan(self) -> Plan:
        """The last step ends at a mean of the x0: the weight of its own follows from the others."""
        rows = [self._row(i) for i in range(len(self.places))]
        older = sum(getattr(rows[-1], name) for name in HISTORY)
        rows[-1] = rows[-1]._replace(x_from_x=0.0, x_from_x0=1 - older, noise_std=0.0)
        return fitted.checked(rows)

    def _row(self, i: int) -> Step:
        there = self.finest[self.places[i]]
        return self.weights[i]._replace(**{name: getattr(there, name) for name in OF_PLACE})

    def numbers(self) -> list[Number]:
        """All that is fitted; a step without fresh noise stays one."""
        last = len(self.places) - 1
        numbers = []
        for i, k in enumerate(self.weights):
            own = () if i == last else ("x_from_x", "x_from_x0", *(["noise_std"] if k.noise_std else []))
            numbers += [Number(i, column) for column in (PLACE, *own, *HISTORY[:i])]
        return numbers

    def small(self, number: Number) -> float:
        """A change of the number in its unit, for a difference quotient; at least one place."""
        return max(SMALL, 1 / self._unit(PLACE)) if number.column == PLACE else SMALL

    def moved(self, changes: Vector) -> "Candidate":
        """With each of its numbers changed, in its unit."""
        places = list(map(float, self.places))
        weights: list[Any] = list(self.weights)
        for (i, column), change in zip(
            self.numbers(), changes * [self._unit(n.column) for n in self.numbers()], strict=True
        ):
            if column == PLACE:
                places[i] += change
            else:
                value = float(getattr(weights[i], column) + change)
                weights[i] = weights[i]._replace(**{column: abs(value) if column == "noise_std" else value})
        within = np.round(places).clip(0, len(self.finest) - 1).astype(int)
        return Candidate(self.finest, tuple(within.tolist()), tuple(weights))

    def _unit(self, column: str) -> float:
        return UNIT_OF_PLACE * len(self.finest) if column == PLACE else UNIT_OF_WEIGHT
