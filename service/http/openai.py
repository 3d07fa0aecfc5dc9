"""OpenAI's image generation, as its clients speak it: a method is a model, and a class's name is the prompt.

https://platform.openai.com/docs/api-reference/images/create; `seed` and `num_inference_steps` as vLLM-Omni has them,
and `index`, `solver`, `settings` and `guidance` as `POST /generate` has them.
"""

import base64
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from fastapi.sse import EventSourceResponse
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from service.engine.jobs import MAX_IMAGES, Progress
from service.engine.placement import Placement
from service.errors import InvalidRequest, Problem
from service.http import problem_responses, responses, streaming
from service.http.routes import RequestOrigin, State
from service.http.schemas import Timing
from service.requests.encoding import one_each
from service.requests.generation import Generation, Origin, receive
from service.requests.renaming import renaming
from service.requests.request import MAX_GUIDANCE, MAX_INDEX, MAX_SEED, MIN_GUIDANCE, GenerateRequest
from service.requests.state import ServiceState

NAMES = {"method": "model", "steps": "num_inference_steps", "class_label": "prompt"}  # by what they are here
PictureFormat = Literal["png", "jpeg", "webp"]
USAGE = {  # clients expect it
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}


class ImageRequest(BaseModel):
    """Images of a class."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"model": "ddim", "prompt": "3", "num_inference_steps": 20, "seed": 7}]},
    )

    model: Annotated[str, Field(description="a method, as `GET /v1/models` lists them")]
    prompt: Annotated[str, Field(description="class: its name, or its number in digits if no class has that name")]
    n: Annotated[int | None, Field(ge=1, le=MAX_IMAGES, description="number of images; 1 in a stream")] = 1
    size: Annotated[str | None, Field(description="size of the model, e.g. `32x32`, or `auto`")] = "auto"
    response_format: Annotated[
        Literal["b64_json"] | None, Field(description="only `b64_json`: the server keeps no files for a `url`")
    ] = "b64_json"
    output_format: PictureFormat | None = "png"
    stream: bool | None = False
    partial_images: Annotated[int | None, Field(ge=0, le=3, description="number of previews in a stream")] = 0
    seed: Annotated[int | None, Field(ge=0, le=MAX_SEED, description="drawn and returned if absent")] = None
    num_inference_steps: Annotated[
        int | None, Field(ge=1, description="network evaluations an image; default: the model's recommended number")
    ] = None
    index: Annotated[int | None, Field(ge=0, le=MAX_INDEX, description="index of the first image of the seed")] = 0
    solver: Annotated[str | None, Field(description="sampler; default: the model's first solver")] = None
    settings: Annotated[dict[str, FiniteFloat] | None, Field(description="settings of the solver, by name")] = None
    guidance: Annotated[
        FiniteFloat | None,
        Field(
            ge=MIN_GUIDANCE,
            le=MAX_GUIDANCE,
            description="weight of classifier-free guidance, for models that take it; 1: without",
        ),
    ] = 1.0
    background: Annotated[Literal["auto", "opaque"] | None, Field(description="accepted and ignored")] = None
    moderation: Annotated[str | None, Field(description="accepted and ignored")] = None
    output_compression: Annotated[int | None, Field(description="accepted and ignored")] = None
    quality: Annotated[str | None, Field(description="accepted and ignored")] = None
    style: Annotated[str | None, Field(description="accepted and ignored")] = None
    user: Annotated[str | None, Field(description="accepted and ignored")] = None


class ImageData(BaseModel):
    b64_json: str


class ImagesResponse(BaseModel):
    created: int
    data: list[ImageData]
    output_format: PictureFormat
    size: str
    seed: int
    usage: dict[str, Any]


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="time of loading, Unix seconds")
    owned_by: str = "trilemma"


class Models(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class ErrorDetails(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class Error(BaseModel):
    error: ErrorDetails


ERROR: dict[str, Any] = {"description": "An error", "model": Error}
GENERATION, EDIT = "image_generation", "image_edit"


def events(name: str) -> dict[str, Any]:
    """The description of a stream for OpenAPI."""
    schema = streaming.schema(f"{name}.partial_image", f"{name}.completed", "error")
    return {"content": {responses.EVENTS: schema}}


router = APIRouter(prefix="/v1", tags=["OpenAI"], responses={"4XX": ERROR, "5XX": ERROR})


@router.post("/images/generations", response_model=ImagesResponse, responses={200: events(GENERATION)})
async def generate(body: ImageRequest, state: State, origin: RequestOrigin) -> Response:
    """Generate images of a class: the same bytes as `POST /generate`."""
    model = state.models.find(body.model)
    check(body, model)
    return await answer(state, origin, body, generate_request(body))


async def answer(
    state: ServiceState, origin: Origin, body: ImageRequest, request: GenerateRequest, event: str = GENERATION
) -> Response:
    """The images, or a stream whose events are called `event`. Raises what Generation.begin and result do."""
    with renaming(lambda field: NAMES.get(field, field)):
        uploads = await receive(state, request)
        generation = Generation.begin(state, origin, request, one_each(request.format), uploads)
        if body.stream:
            return stream(generation, body.partial_images or 0, event)
        result = await generation.result()
    content = await responses.written(result.files, lambda: json(generation, body, result.files))
    return Response(content, media_type=responses.JSON, headers=responses.result_headers(generation, result))


@router.get("/models")
async def models(state: State) -> Models:
    """All served methods."""
    return Models(data=[describe(model) for model in state.models.served().values()])


@router.get("/models/{model}")
async def model(state: State, model: str) -> Model:
    """One served method."""
    return describe(state.models.find(model))


class ImageEvents:
    """Partial images, as many as asked for at most, then the completed one."""

    def __init__(self, generation: Generation, partial_images: int, name: str) -> None:
        self.name = name
        self.preview_format = generation.request.format
        self.partial_images = partial_images
        self.sent = 0
        self.picture = {
            "seed": generation.sampling.seed,
            "background": "opaque",
            "output_format": generation.request.format,
            "quality": "auto",
            "size": size(generation.model),
        }

    def accepted(self) -> bytes:
        return b""

    def step(self, progress: Progress, preview: str | None) -> bytes:
        if preview is None or progress.index == progress.of or self.sent == self.partial_images:
            return b""
        self.sent += 1
        return self._event("partial_image", b64_json=preview, partial_image_index=self.sent - 1)

    def completed(self, files: list[bytes], timing: Timing) -> bytes:
        return self._event("completed", b64_json=base64.b64encode(files[0]).decode(), usage=USAGE)

    def failed(self, problem: Problem) -> bytes:
        return streaming.event("error", problem_responses.openai(problem))

    def _event(self, kind: str, **data: Any) -> bytes:
        name = f"{self.name}.{kind}"
        return streaming.event(name, {"type": name, "created_at": int(time.time()), **self.picture, **data})


def json(generation: Generation, body: ImageRequest, files: Sequence[bytes]) -> str:
    """The body of the answer."""
    response = ImagesResponse(
        created=int(time.time()),
        data=[ImageData(b64_json=base64.b64encode(file).decode()) for file in files],
        output_format=body.output_format or "png",
        size=size(generation.model),
        seed=generation.sampling.seed,
        usage=USAGE,
    )
    return response.model_dump_json()


def stream(generation: Generation, partial_images: int, event: str) -> EventSourceResponse:
    """Raises what streaming.respond raises."""
    every = max(1, generation.sampling.steps // (partial_images + 1)) if partial_images else None
    request = generation.request.model_copy(update={"preview_every": every})
    generation = replace(generation, request=request)
    return streaming.respond(generation, ImageEvents(generation, partial_images, event), responses.headers(generation))


def check(body: ImageRequest, model: Placement) -> None:
    """Raises InvalidRequest for what OpenAI's fields may say and these models cannot."""
    if body.size not in (None, "auto", size(model)):
        raise InvalidRequest.of("size", f"{body.model} has images of one size", ["auto", size(model)])
    if body.stream and body.n not in (None, 1):
        raise InvalidRequest.of("n", "a stream has one image", {"min": 1, "max": 1})


def generate_request(body: ImageRequest, **more: Any) -> GenerateRequest:
    return GenerateRequest(
        method=body.model,
        class_label=body.prompt,
        n=body.n or 1,
        index=body.index or 0,
        steps=body.num_inference_steps,
        seed=body.seed,
        solver=body.solver,
        settings=body.settings,
        guidance=1.0 if body.guidance is None else body.guidance,
        format=body.output_format or "png",
        **more,
    )


def describe(model: Placement) -> Model:
    return Model(id=model.name, created=model.bundle.loaded_at)


def size(model: Placement) -> str:
    _, height, width = model.bundle.manifest.shape
    return f"{width}x{height}"
