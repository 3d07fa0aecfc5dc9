"""What the service's own answers say on the wire."""

from typing import Any

from pydantic import BaseModel, Field

from service.requests.models import Status


class GeneratedImage(BaseModel):
    index: int
    data: str = Field(description="base64 of the file in the format asked for")
    sha256: str = Field(description="of the file's bytes")


class Timing(BaseModel):
    """Milliseconds: waiting for the first step, from the first step to the last, and in the service altogether."""

    queue_ms: float
    compute_ms: float
    total_ms: float


class ModelRef(BaseModel):
    name: str
    digest: str = Field(description="SHA-256 of what decides the model's images")


class GenerateResponse(BaseModel):
    id: str
    method: str
    steps: int
    solver: str
    settings: dict[str, float] = Field(description="the solver's settings, defaults filled in")
    chosen: str | None = Field(description="for method `auto`: which measured point this is, and why")
    seed: int
    class_label: str | None
    images: list[GeneratedImage]
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


class Steps(BaseModel):
    min: int
    max: int
    default: int


class MethodInfo(BaseModel):
    """A served model."""

    method: str
    family: str
    model: ModelRef
    image_shape: tuple[int, int, int] = Field(description="(channels, height, width)")
    classes: list[str]
    steps: Steps
    solvers: list[SolverInfo] = Field(description="the first one is the default")
    device: str = Field(description="what computes it, by what, in which precision and batch sizes")
    measured: dict[str, Any] = Field(description="quality and speed, where they were measured")


class ReadinessInfo(BaseModel):
    """How far along the service is."""

    status: Status
    methods: list[str]
    failed_bundles: dict[str, str] = Field(description="bundles that were refused, and why")
    out_of_service: list[str] = Field(description="methods whose model kept failing")
