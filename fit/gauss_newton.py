"""Fits a candidate's numbers by Gauss-Newton's method, with difference quotients through the network."""

from collections.abc import Callable

import numpy as np

from fit.candidate import PLACE, Candidate, Number
from fit.sampling import Sampler, Trajectory
from models.schedules import Vector
from models.step import Plan
from service.engine.runtime import Array

DAMPINGS = (5e-4, 5e-3, 5e-2)  # in parts of the mean of the diagonal, all tried (Levenberg 1944)


class GaussNewton:
    """Lowers the sum of squares of `residuals`, a function of the images' states."""

    def __init__(
        self, sampler: Sampler, residuals: Callable[[Array], Vector], advance: Callable[[int], object]
    ) -> None:
        """`advance` is called with the steps that were run, `runs(candidate)` in all in each step of the method."""
        self._sampler, self._residuals, self._advance = sampler, residuals, advance

    @staticmethod
    def runs(candidate: Candidate) -> int:
        """Steps of the plan that one step of the method runs."""
        steps = len(candidate.places)
        slopes = sum(steps - number.step - (number.column != PLACE) for number in candidate.numbers())
        return steps * (1 + len(DAMPINGS)) + slopes

    def step(self, candidate: Candidate, seed: int, images: int) -> Candidate:
        """The candidate after one step on these images: the best of some dampings, or as it was."""
        base = self._sampler.run(candidate.plan(), seed, images)
        self._advance(len(candidate.places))
        residuals = self._residuals(base.x[-1])
        jacobian = np.stack(
            [self._slope(candidate, base, residuals, i, seed) for i in range(len(candidate.numbers()))], 1
        )
        normal, gradient = jacobian.T @ jacobian, jacobian.T @ residuals
        best, least = candidate, np.square(residuals).sum()
        for damping in DAMPINGS:
            damped = normal + damping * np.diag(normal).mean() * np.eye(len(normal))
            moved = candidate.moved(-np.linalg.solve(damped, gradient))
            loss = np.square(self._residuals(self._sampler.final(moved.plan(), seed, images))).sum()
            self._advance(len(candidate.places))
            if loss < least:
                best, least = moved, loss
        return best

    def _slope(self, candidate: Candidate, base: Trajectory, residuals: Vector, index: int, seed: int) -> Vector:
        """Of the residuals, by one number in its unit: what is before its step stays as in `base`."""
        number = candidate.numbers()[index]
        changes = np.zeros(len(candidate.numbers()))
        changes[index] = candidate.small(number)
        plan = candidate.moved(changes).plan()
        before = self._before(plan, base, number, seed)
        states = self._sampler.run(plan, seed, len(base.x[0]), before).x[-1]
        self._advance(len(plan) - len(before.x0))
        slope: Vector = (self._residuals(states) - residuals) / changes[index]
        return slope

    def _before(self, plan: Plan, base: Trajectory, number: Number, seed: int) -> Trajectory:
        """All that needs no network: the steps before, and the step itself where its x0 is the same."""
        i = number.step
        if number.column == PLACE:
            return Trajectory(base.x[: i + 1], base.x0[:i])
        x = self._sampler.weighted(plan[i], base.x[i], base.x0[: i + 1], seed, i)
        return Trajectory([*base.x[: i + 1], x], base.x0[: i + 1])
