"""Fits a candidate's times by Gauss-Newton's method, with difference quotients through the network."""

from collections.abc import Callable

import numpy as np

from fit.candidate import Candidate
from fit.sampling import Sampler, Trajectory
from models.schedules import Vector
from service.engine.runtime import Array

DAMPINGS = (0.01, 0.1, 1.0)  # in parts of the diagonal, tried in turn (Marquardt 1963)


class GaussNewton:
    """Lowers the sum of squares of `residuals`, a function of the images' states."""

    def __init__(self, sampler: Sampler, residuals: Callable[[Array], Vector], advance: Callable[[], object]) -> None:
        """`advance` is called `runs(steps)` times in each step."""
        self._sampler, self._residuals, self._advance = sampler, residuals, advance

    @staticmethod
    def runs(steps: int) -> int:
        return steps + len(DAMPINGS)

    def step(self, candidate: Candidate, seed: int, images: int) -> Candidate:
        """The candidate after one step on these images: the best of some dampings, or as it was."""
        base = self._sampler.run(candidate.plan(), seed, images)
        residuals = self._residuals(base.x[-1])
        slopes = [self._slope(candidate, base, residuals, index, seed) for index in range(len(candidate.times))]
        jacobian = np.stack(slopes, axis=1)
        normal, gradient = jacobian.T @ jacobian, jacobian.T @ residuals
        best, least = candidate, np.square(residuals).sum()
        for damping in DAMPINGS:
            damped = normal + damping * np.diag(np.diag(normal) + np.finfo(np.float64).tiny)
            moved = candidate.moved(-np.linalg.solve(damped, gradient))
            loss = np.square(self._residuals(self._sampler.final(moved.plan(), seed, images))).sum()
            if loss < least:
                best, least = moved, loss
            self._advance()
        return best

    def _slope(self, candidate: Candidate, base: Trajectory, residuals: Vector, index: int, seed: int) -> Vector:
        """Of the residuals, by one time: it is where the step before ends, so all until there is as in `base`."""
        changes = np.zeros(len(candidate.times))
        changes[index] = candidate.small
        moved = candidate.moved(changes)
        same = max(index - 1, 0)
        before = Trajectory(base.x[: same + 1], base.x0[:same])
        states = self._sampler.run(moved.plan(), seed, len(base.x[0]), before).x[-1]
        self._advance()
        return (self._residuals(states) - residuals) / candidate.small
