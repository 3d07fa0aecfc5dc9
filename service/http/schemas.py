"""What the service's own answers say on the wire."""

from typing import Any

from pydantic import BaseModel, Field

from service.requests.models import Status


class GeneratedImage(BaseModel):
    index: int = Field(description="index of the image among those of its seed")
    data: str = Field(description="base64 of the file, in the requested format")
    sha256: str = Field(description="SHA-256 of the file's bytes")


class Timing(BaseModel):
    """Milliseconds: until the first step, from the first step to the last, and in total."""

    queue_ms: float
    compute_ms: float
    total_ms: float


class ModelRef(BaseModel):
    name: str
    digest: str = Field(description="SHA-256 of everything that decides the model's images")


class GenerateResponse(BaseModel):
    id: str
    method: str
    steps: int
    solver: str
    settings: dict[str, float] = Field(description="the solver's settings, with defaults")
    chosen: str | None = Field(description="for method `auto`: the chosen point, and the reason")
    seed: int
    class_label: str | None
    guidance: float = Field(description="weight of classifier-free guidance; 1: without")
    strength: float | None = Field(description="share of the steps that were taken from an image; null: without one")
    images: list[GeneratedImage]
    timing: Timing
    model: ModelRef


class BoundParts(BaseModel):
    """Bits per dimension; their sum is `bits_per_dimension`."""

    prior: float = Field(description="of the distance between the image in full noise and pure noise")
    diffusion: float = Field(description="of the steps between; estimated")
    reconstruction: float = Field(description="of the pixels' values, given the least noisy state")


class ScoredImage(BaseModel):
    index: int = Field(description="index of the image, which decides its noise with the seed")
    class_label: str | None
    bits_per_dimension: float = Field(description="upper bound on the negative log-likelihood; estimated")
    standard_error: float | None = Field(description="of `bits_per_dimension`; null with one term")
    bound: BoundParts


class LikelihoodResponse(BaseModel):
    id: str
    method: str
    terms: int = Field(description="network evaluations an image for the diffusion")
    seed: int
    images: list[ScoredImage]
    timing: Timing
    model: ModelRef


class Range(BaseModel):
    min: float
    max: float
    default: float


class SolverInfo(BaseModel):
    name: str
    summary: str
    settings: dict[str, Range]
    steps: list[int] = Field(description="the only numbers of steps that it takes; empty: any of the method's")


class Steps(BaseModel):
    min: int
    max: int
    default: int


class DefaultInfo(BaseModel):
    """How a request is sampled that names neither steps nor solver nor settings."""

    solver: str
    steps: int


class MethodInfo(BaseModel):
    """A served model."""

    method: str
    family: str
    model: ModelRef
    image_shape: tuple[int, int, int] = Field(description="(channels, height, width)")
    dataset: str = Field(description="what the model was trained on; distances compare within one data set only")
    classes: list[str]
    guidance: Range | None = Field(description="range of `guidance`; null: the model takes none")
    steps: Steps
    likelihood: Steps | None = Field(description="range of `terms` of `POST /likelihood`; null: it has no likelihood")
    solvers: list[SolverInfo] = Field(description="solvers; the first is that of a request with steps alone")
    default: DefaultInfo
    images: bool = Field(description="whether it takes an `image`: image-to-image and inpainting")
    inverts: bool = Field(description="whether `POST /invert` takes it")
    device: str = Field(description="device, runtime, precision and batch sizes")
    measured: dict[str, Any] = Field(description="measured quality and speed; empty if not measured")


class ReadinessInfo(BaseModel):
    """State of the service."""

    status: Status
    methods: list[str]
    failed_bundles: dict[str, str] = Field(description="refused bundles, with reasons")
    out_of_service: list[str] = Field(description="methods taken out of service after repeated failures")
