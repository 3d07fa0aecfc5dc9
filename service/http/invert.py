"""`POST /invert`: from an image to the x_T that its model makes it of, by deterministic DDIM run backwards."""

import base64
import hashlib
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Header, Response
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from service.engine.jobs import Priority
from service.errors import InvalidRequest
from service.http import responses
from service.http.routes import BINARY, PROBLEM, RequestOrigin, State
from service.http.schemas import ModelRef, Timing
from service.requests.encoding import MEDIA_TYPES, RAW, one_for_all
from service.requests.etag import is_match
from service.requests.generation import Generation, Result, receive
from service.requests.request import CLASS_LABEL, GUIDANCE, MAX_GUIDANCE, MIN_GUIDANCE, GenerateRequest

NPY = MEDIA_TYPES["npy"]
ANSWERS = (NPY, responses.JSON)  # JSON for */*
router = APIRouter(responses={"4XX": PROBLEM, "5XX": PROBLEM})


class InvertRequest(BaseModel):
    """An image to find the starting noise of. The same request always gives the same noise."""

    model_config = ConfigDict(extra="forbid", strict=True)

    method: Annotated[str, Field(description="a method of `GET /methods`")]
    image: Annotated[str, Field(description="base64 of a PNG, JPEG or WebP, scaled as that of `POST /generate`")]
    steps: Annotated[
        int | None,
        Field(ge=1, description="steps, of two network evaluations each; default: the model's recommended number"),
    ] = None
    class_label: Annotated[int | str | None, Field(description=CLASS_LABEL)] = None
    guidance: Annotated[FiniteFloat, Field(ge=MIN_GUIDANCE, le=MAX_GUIDANCE, description=GUIDANCE)] = 1.0
    deadline_ms: Annotated[int | None, Field(ge=1, le=86_400_000, description="time limit of the answer")] = None
    priority: Annotated[Priority, Field(description="order among requests without a deadline")] = "normal"


class InvertResponse(BaseModel):
    """What `POST /generate` takes to come back to the image: method, steps, solver, settings, class and noise."""

    id: str
    method: str
    steps: int
    solver: str
    settings: dict[str, float]
    class_label: str | None
    guidance: float
    noise: str = Field(description="base64 of x_T, float32 in little-endian order")
    shape: tuple[int, int, int] = Field(description="of the noise")
    sha256: str = Field(description="SHA-256 of the noise's bytes")
    timing: Timing
    model: ModelRef


INVERTED: dict[int | str, dict[str, Any]] = {
    200: {"description": "x_T: JSON, or a float32 array (1, C, H, W)", "content": {NPY: BINARY}},
    304: {"description": "`If-None-Match` matches the ETag of this request. Nothing was computed"},
}


@router.post("/invert", response_model=InvertResponse, responses=INVERTED)
async def invert(
    body: InvertRequest,
    state: State,
    origin: RequestOrigin,
    accept: Annotated[str, Header()] = "*/*",
    if_none_match: Annotated[str, Header()] = "",
) -> Response:
    """Find the starting noise that a model makes an image of: `POST /generate` with it gives the image back."""
    media_type = responses.negotiate(accept, ANSWERS)
    bundle = state.models.find(body.method).bundle
    if bundle.inverter is None:
        raise InvalidRequest.of("method", f"{body.method} has no deterministic solver to run backwards", None)
    solver, settings = bundle.inverter
    request = GenerateRequest(**body.model_dump(), solver=solver, settings=dict(settings), seed=0)
    uploads = await receive(state, request)
    encoding = RAW if media_type == responses.JSON else one_for_all("npy")
    generation = Generation.begin(state, origin, request, encoding, uploads).inverted()
    headers = {"ETag": generation.tag, "Vary": "Accept"}
    if is_match(generation.tag, if_none_match):
        return Response(status_code=304, headers=headers)
    result = await generation.result()
    content = json(generation, result) if media_type == responses.JSON else result.files[0]
    headers |= responses.timing_headers(result, origin.arrived_s)
    return Response(content, media_type=media_type, headers=headers)


def json(generation: Generation, result: Result) -> bytes:
    sampling, manifest = generation.sampling, generation.model.bundle.manifest
    (file,) = result.files
    response = InvertResponse(
        id=generation.origin.id,
        method=sampling.method,
        steps=sampling.steps,
        solver=sampling.solver,
        settings=dict(sampling.settings),
        class_label=responses.class_name(generation.model, sampling.label),
        guidance=sampling.guidance,
        noise=base64.b64encode(file).decode(),
        shape=manifest.state_shape,
        sha256=hashlib.sha256(file).hexdigest(),
        timing=responses.timing(result.job, generation.origin.arrived_s),
        model=ModelRef(name=generation.model.name, digest=generation.model.digest),
    )
    return orjson.dumps(response.model_dump())
