"""Wire types: what a request may say and what an answer says. Shape and fixed ranges only; a model's own limits are
its bundle's."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_IMAGES = 64
MAX_SEED = 2**64 - 1

Format = Literal["png", "jpeg", "webp", "npy"]
Priority = Literal["low", "normal", "high"]


class GenerateRequest(BaseModel):
    """Images to generate. The same request, seed included, always gives the same images."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"method": "ddim", "steps": 20, "seed": 7, "class_label": 3}]},
    )

    method: Annotated[str, Field(description="one of `GET /methods`, or `auto` with `max_ms` or `max_distance`")]
    steps: Annotated[
        int | None, Field(ge=1, description="network evaluations an image; default: the model's recommended number")
    ] = None
    seed: Annotated[int | None, Field(ge=0, le=MAX_SEED, description="drawn, and returned, when absent")] = None
    n: Annotated[int, Field(ge=1, le=MAX_IMAGES, description="how many images")] = 1
    class_label: Annotated[
        int | str | None, Field(description="a class by number or name; null or absent: no class")
    ] = None
    solver: Annotated[str | None, Field(description="how to sample; default: the model's first solver")] = None
    eta: Annotated[float | None, Field(ge=0, le=1, description="solver `ddim` only: 0 is deterministic, 1 is DDPM")] = (
        None
    )
    max_ms: Annotated[
        float | None,
        Field(
            gt=0,
            description="`auto` only: the nearest to the data of what was measured within so many milliseconds and can "
            "be promised within them now, what is queued counted; as `deadline_ms`",
        ),
    ] = None
    max_distance: Annotated[
        float | None, Field(gt=0, description="`auto` only: measured Fréchet distance at most; the fastest")
    ] = None
    format: Annotated[Format, Field(description="of `images[].data` in a JSON answer")] = "png"
    deadline_ms: Annotated[
        int | None, Field(ge=1, le=86_400_000, description="answered within this time, or refused at once with 429")
    ] = None
    priority: Annotated[Priority, Field(description="how soon, where there is no deadline")] = "normal"
    preview_every: Annotated[
        int | None, Field(ge=1, description="in an event stream: a picture of the predicted image every so many steps")
    ] = None


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


Status = Literal["starting", "ready", "draining", "no model", "engine stopped"]


class Readiness(BaseModel):
    status: Status
    methods: list[str]
    failed_bundles: dict[str, str] = Field(description="bundles that were refused, and why")
    out_of_service: list[str] = Field(description="methods whose model kept failing")


def allowed(field: str, model: type[BaseModel]) -> Any:
    """What `field` of a request may be, in JSON Schema's terms, or the known fields where there is no such field."""
    properties = model.model_json_schema()["properties"]
    if field not in properties:
        return sorted(properties)
    schema = properties[field]
    members = [member for member in schema.get("anyOf", [schema]) if member.get("type") != "null"]
    keys = ("type", "minimum", "maximum", "enum")
    described = [{key: member[key] for key in keys if key in member} for member in members]
    return described[0] if len(described) == 1 else described
