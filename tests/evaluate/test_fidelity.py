"""Distances and shares against their definitions, and against a library."""

import numpy as np
import pytest
from prdc import compute_prdc
from scipy.linalg import sqrtm

from evaluate.fidelity import NEIGHBOURS, class_entropy, frechet_distance, precision_recall, share_within


def normal(seed: int, n: int, d: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(seed).standard_normal((n, d)) * scale + shift


def test_the_frechet_distance_is_the_formula_of_the_paper() -> None:
    a, b = normal(0, 500, 8) @ normal(1, 8, 8), normal(2, 400, 8, shift=0.5)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    mean = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    expected = mean + np.trace(cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_a_set_is_at_no_distance_from_itself_even_where_features_are_redundant() -> None:
    a = normal(0, 300, 4)
    redundant = np.concatenate([a, a, np.zeros((300, 2))], axis=1)
    assert frechet_distance(redundant, redundant) == pytest.approx(0, abs=1e-6)


def test_a_shift_costs_its_square() -> None:
    a = normal(0, 300, 4)
    assert frechet_distance(a, a + 3) == pytest.approx(4 * 9, rel=1e-9)


@pytest.mark.filterwarnings("ignore")
def test_precision_and_recall_are_those_of_prdc() -> None:
    # More rows than a block of distances holds; prdc counts a point as its own nearest neighbour too.
    real, generated = normal(0, 1500, 6), normal(1, 1300, 6, scale=0.6, shift=0.3)
    expected = compute_prdc(real_features=real, fake_features=generated, nearest_k=NEIGHBOURS)
    precision, recall = precision_recall(real, generated)
    assert precision == pytest.approx(expected["precision"], abs=0.002)
    assert recall == pytest.approx(expected["recall"], abs=0.002)
    assert recall < precision


def test_every_point_lies_in_its_own_ball_and_none_in_a_far_one() -> None:
    a = normal(0, 50, 3)
    assert share_within(a, a) == 1
    assert share_within(a + 100, a) == 0


def test_entropy_is_of_the_class_frequencies() -> None:
    assert class_entropy(np.arange(8), 8) == 3
    assert class_entropy(np.array([2, 2, 2]), 8) == 0
    assert class_entropy(np.array([0, 0, 1, 2]), 3) == 1.5
