"""EDM's four preconditionings (Karras et al. 2022, arXiv 2206.00364, table 1), each by the attributes in its pickle."""

from collections.abc import Mapping
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from importers.imported import Preconditioning, Vector

Positive = Annotated[float, Field(gt=0)]


def ones(sigma: Vector) -> Vector:
    return np.ones_like(sigma)


def to_unit_variance(sigma: Vector) -> Vector:
    """1/√(σ² + 1): of an image of variance 1."""
    return 1 / np.sqrt(sigma**2 + 1)


class Precondition(BaseModel):
    """What all four have. `discrete`: whether the network knows a table of σ only."""

    model_config = ConfigDict(frozen=True)

    sigma_min: Annotated[float, Field(ge=0)]
    sigma_max: Positive
    discrete: bool = False

    def preconditioning(self, levels: Vector | None) -> Preconditioning:
        """The four functions; `levels` is the table of σ, if there is one."""
        raise NotImplementedError


class VPPrecond(Precondition):
    """Of the variance-preserving SDE: t with σ(t) = √(exp(½·β_d·t² + β_min·t) − 1), times M − 1."""

    beta_d: Positive
    beta_min: Positive
    M: Annotated[int, Field(ge=1, le=100_000)]

    def preconditioning(self, levels: Vector | None) -> Preconditioning:
        def c_noise(sigma: Vector) -> Vector:
            # In float32, as the network was called: at σ = 0.002 the sum 1 + σ² keeps two digits of σ².
            log = np.log(1 + sigma.astype(np.float32) ** 2)
            time = (np.sqrt(self.beta_min**2 + 2 * self.beta_d * log) - self.beta_min) / self.beta_d
            return ((self.M - 1) * time).astype(np.float64)

        return Preconditioning(ones, np.negative, to_unit_variance, c_noise)


class VEPrecond(Precondition):
    """Of the variance-exploding SDE."""

    def preconditioning(self, levels: Vector | None) -> Preconditioning:
        def c_noise(sigma: Vector) -> Vector:
            return np.log(0.5 * sigma.astype(np.float32)).astype(np.float64)

        return Preconditioning(ones, np.positive, ones, c_noise)


class IDDPMPrecond(Precondition):
    """Of improved DDPM: the timestep whose σ in the table is nearest."""

    M: Annotated[int, Field(ge=1, le=100_000)]
    discrete: bool = True

    def preconditioning(self, levels: Vector | None) -> Preconditioning:
        assert levels is not None

        def c_noise(sigma: Vector) -> Vector:
            distance = np.abs(sigma.astype(np.float32)[..., None] - levels.astype(np.float32))
            return self.M - 1.0 - distance.argmin(-1)

        return Preconditioning(ones, np.negative, to_unit_variance, c_noise)


class EDMPrecond(Precondition):
    """The paper's own."""

    sigma_data: Positive

    def preconditioning(self, levels: Vector | None) -> Preconditioning:
        def root(sigma: Vector) -> Vector:
            return np.sqrt(sigma**2 + self.sigma_data**2)

        def c_noise(sigma: Vector) -> Vector:
            return (np.log(sigma.astype(np.float32)) / 4).astype(np.float64)

        return Preconditioning(
            c_skip=lambda sigma: self.sigma_data**2 / root(sigma) ** 2,
            c_out=lambda sigma: sigma * self.sigma_data / root(sigma),
            c_in=lambda sigma: 1 / root(sigma),
            c_noise=c_noise,
        )


PRECONDITIONING: Mapping[str, type[Precondition]] = {
    "VPPrecond": VPPrecond,
    "VEPrecond": VEPrecond,
    "iDDPMPrecond": IDDPMPrecond,
    "EDMPrecond": EDMPrecond,
}
