"""EDM's four preconditionings by the attributes in its pickle; `models.karras.preconditioning` computes them."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
Timesteps = Annotated[int, Field(ge=1, le=100_000)]


class Precondition(BaseModel):
    """What all four have. `discrete`: whether the network knows a table of σ only."""

    model_config = ConfigDict(frozen=True)

    kind: ClassVar[str]
    sigma_min: Annotated[float, Field(ge=0)]
    sigma_max: Positive
    discrete: bool = False

    def numbers(self) -> dict[str, Any]:
        """What the manifest has of it, but for the table of σ."""
        own = self.model_dump(exclude={"sigma_min", "sigma_max", "discrete"})
        return {"kind": self.kind, **own}


class VPPrecond(Precondition):
    """Of the variance-preserving SDE."""

    kind: ClassVar[str] = "vp"
    beta_d: Positive
    beta_min: Positive
    M: Timesteps


class VEPrecond(Precondition):
    """Of the variance-exploding SDE."""

    kind: ClassVar[str] = "ve"


class IDDPMPrecond(Precondition):
    """Of improved DDPM."""

    kind: ClassVar[str] = "iddpm"
    M: Timesteps
    discrete: bool = True


class EDMPrecond(Precondition):
    """The paper's own."""

    kind: ClassVar[str] = "edm"
    sigma_data: Positive


PRECONDITIONING: Mapping[str, type[Precondition]] = {
    "VPPrecond": VPPrecond,
    "VEPrecond": VEPrecond,
    "iDDPMPrecond": IDDPMPrecond,
    "EDMPrecond": EDMPrecond,
}
