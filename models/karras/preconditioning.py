"""What a network of noise levels σ sees, and what its output means. Float64; NumPy only.

D(x, σ) = c_skip·x + c_out·F(c_in·x, c_noise), each a function of σ (Karras et al. 2022, arXiv 2206.00364, eq. 7 and
table 1). The manifest has `{"kind", …}` with the numbers of that kind.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from models.schedules import Vector


class Preconditioning(NamedTuple):
    """Four functions of σ. c_noise is in float32 where the original's is, because the network sees its rounding."""

    c_skip: Callable[[Vector], Vector]
    c_out: Callable[[Vector], Vector]
    c_in: Callable[[Vector], Vector]
    c_noise: Callable[[Vector], Vector]


def of(numbers: Mapping[str, Any]) -> Preconditioning:
    """Raises KeyError for a kind that is not there, or a number that its kind needs."""
    return KINDS[numbers["kind"]](numbers)


def nearest_level(sigma: Vector, levels: Vector) -> Any:
    """The index of the level nearest to each σ, compared in float32."""
    return np.abs(sigma.astype(np.float32)[..., None] - levels.astype(np.float32)).argmin(-1)


def vp(numbers: Mapping[str, Any]) -> Preconditioning:
    """Of the variance-preserving SDE: t with σ(t) = √(exp(½·β_d·t² + β_min·t) − 1), times M − 1."""
    beta_d, beta_min, last = numbers["beta_d"], numbers["beta_min"], numbers["M"] - 1

    def c_noise(sigma: Vector) -> Vector:
        # In float32, as the network was called: at σ = 0.002 the sum 1 + σ² keeps two digits of σ².
        log = np.log(1 + sigma.astype(np.float32) ** 2)
        return (last * (np.sqrt(beta_min**2 + 2 * beta_d * log) - beta_min) / beta_d).astype(np.float64)

    return Preconditioning(np.ones_like, np.negative, to_unit_variance, c_noise)


def ve(numbers: Mapping[str, Any]) -> Preconditioning:
    """Of the variance-exploding SDE."""

    def c_noise(sigma: Vector) -> Vector:
        return np.log(0.5 * sigma.astype(np.float32)).astype(np.float64)

    return Preconditioning(np.ones_like, np.positive, np.ones_like, c_noise)


def iddpm(numbers: Mapping[str, Any]) -> Preconditioning:
    """Of improved DDPM: the timestep whose σ in the table is nearest."""
    levels, last = np.asarray(numbers["levels"], dtype=np.float64), numbers["M"] - 1.0

    def c_noise(sigma: Vector) -> Vector:
        place: Vector = last - nearest_level(sigma, levels)
        return place

    return Preconditioning(np.ones_like, np.negative, to_unit_variance, c_noise)


def edm(numbers: Mapping[str, Any]) -> Preconditioning:
    """The paper's own; consistency models have a `boundary`, the σ at which D(x, σ) = x.

    With a boundary ε, c_skip and c_out have σ − ε for σ (Song et al. 2023, arXiv 2303.01469, appendix C).
    `noise_gain` is the factor before ln σ in c_noise: ¼ in the paper, 250 in OpenAI's networks. `noise_dtype` is that
    of the logarithm.
    """
    sigma_data, boundary, gain = numbers["sigma_data"], numbers.get("boundary", 0.0), numbers.get("noise_gain", 0.25)
    dtype = np.float64 if numbers.get("noise_dtype") == "float64" else np.float32

    def root(sigma: Vector) -> Vector:
        return np.sqrt(sigma**2 + sigma_data**2)

    return Preconditioning(
        c_skip=lambda sigma: sigma_data**2 / ((sigma - boundary) ** 2 + sigma_data**2),
        c_out=lambda sigma: (sigma - boundary) * sigma_data / root(sigma),
        c_in=lambda sigma: 1 / root(sigma),
        c_noise=lambda sigma: gain * np.log(sigma.astype(dtype)).astype(np.float64),
    )


def to_unit_variance(sigma: Vector) -> Vector:
    """1/√(σ² + 1): of an image of variance 1."""
    return 1 / np.sqrt(sigma**2 + 1)


KINDS: Mapping[str, Callable[[Mapping[str, Any]], Preconditioning]] = {"vp": vp, "ve": ve, "iddpm": iddpm, "edm": edm}
