"""What a plan's images are compared with: mean and covariance of the teacher's features."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evaluate.fidelity import frechet_distance
from models.schedules import Vector

DIMENSIONS = 48  # principal components of the features that count

Levels = Sequence[NDArray[np.float32]]


class Target:
    """The Gaussian of the features of half of the teacher's images; the other half decides in the end."""

    def __init__(self, features: Levels) -> None:
        """`features`: (n, numbers) for each resolution, which all weigh the same."""
        self._scales = [1 / float(np.sqrt(level.var(axis=0).sum())) for level in features]
        own, held_out = np.array_split(self._joined(features), 2)
        self._mean = own.mean(axis=0)
        _, deviations, basis = np.linalg.svd(own - self._mean, full_matrices=False)
        kept = slice(min(DIMENSIONS, len(own) - 1))  # the deviations from a mean have one dimension less
        self._variances = deviations[kept] ** 2 / (len(own) - 1)
        self._basis = basis[kept].T
        self._held_out = (held_out - self._mean) @ self._basis

    def residuals(self, features: Levels) -> Vector:
        """Their sum of squares is the squared Fréchet distance to the target, for one that is near.

        With the teacher's covariance diagonal, λ_i, that distance is Σ Δmean_i² + ½·Σ ΔC_ij²/(λ_i + λ_j) to second
        order.
        """
        components = self._components(features)
        mean, covariance = components.mean(axis=0), np.cov(components, rowvar=False)
        weights = np.sqrt(0.5 / (self._variances[:, None] + self._variances))
        difference = weights * (covariance - np.diag(self._variances))
        upper = np.triu_indices(len(mean), k=1)
        return np.concatenate([mean, np.diag(difference), np.sqrt(2) * difference[upper]])

    def distance(self, features: Levels) -> float:
        """The Fréchet distance to the held-out half."""
        return frechet_distance(self._held_out, self._components(features))

    def _components(self, features: Levels) -> Vector:
        """In the principal components of the teacher, around its mean."""
        result: Vector = (self._joined(features) - self._mean) @ self._basis
        return result

    def _joined(self, features: Levels) -> Vector:
        scaled = [level.astype(np.float64) * scale for level, scale in zip(features, self._scales, strict=True)]
        return np.concatenate(scaled, axis=1)
