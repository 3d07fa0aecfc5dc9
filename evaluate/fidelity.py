"""Distance, precision and recall of generated images against real ones, from features (n, d) float64 of each."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float64]

NEIGHBOURS = 3  # k of the manifolds, as in the paper
ROWS = 1000  # of a distance matrix in memory at once


def frechet_distance(a: Features, b: Features) -> float:
    """The Fréchet distance of the Gaussians fitted to both (Heusel et al. 2017, arXiv 1706.08500, eq. 6).

    ‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2·(Σ_a·Σ_b)^½). In Inception's features this is the FID. It depends on the features
    and on the number of images: compare only distances that have both in common.
    """
    mean = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # Σ_a·Σ_b has the eigenvalues of Σ_a^½·Σ_b·Σ_a^½, which are real and not negative, as that matrix is symmetric.
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    trace_of_root = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    return float(mean + np.trace(cov_a) + np.trace(cov_b) - 2 * trace_of_root)


def precision_recall(real: Features, generated: Features) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991, eqs. 1 and 2).

    Precision is the share of generated images in at least one ball around a real image, whose radius is the distance to
    its NEIGHBOURS-th nearest real image. Recall exchanges the roles of the two sets.
    """
    return share_within(generated, real), share_within(real, generated)


def share_within(points: Features, manifold: Features) -> float:
    """The share of `points` in at least one ball around a point of `manifold`: see `precision_recall`."""
    # The nearest point to a point is itself, at distance 0: hence index k and not k − 1.
    radii = np.concatenate([np.partition(d, NEIGHBOURS, axis=1)[:, NEIGHBOURS] for d in _distances(manifold, manifold)])
    return float(np.concatenate([(d <= radii).any(axis=1) for d in _distances(points, manifold)]).mean())


def class_entropy(labels: NDArray[np.int64], classes: int) -> float:
    """Entropy of the classes in `labels`, in bits: log2(classes) when all are equally frequent."""
    frequency = np.bincount(labels, minlength=classes) / len(labels)
    present = frequency[frequency > 0]
    return float(-(present * np.log2(present)).sum())


def _distances(a: Features, b: Features) -> Iterator[Features]:
    """Euclidean distances of `a` to `b`, in blocks of ROWS rows of `a`."""
    squares = np.square(b).sum(axis=1)
    for start in range(0, len(a), ROWS):
        block = a[start : start + ROWS]
        yield np.sqrt((np.square(block).sum(axis=1)[:, None] + squares - 2 * block @ b.T).clip(0))
