"""The HTTP surface: thin handlers from a parsed request to the engine and back."""

import asyncio
from functools import partial
from typing import Annotated, Any

from asgi_correlation_id import correlation_id
from fastapi import APIRouter, Depends, Header, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import Receive

from service.errors import ProblemDetails
from service.http import auth, problem_responses, responses, streaming
from service.http.schemas import GenerateResponse, MethodInfo, ReadinessInfo
from service.requests.etag import is_match
from service.requests.generation import Generation, Origin, receive
from service.requests.request import GenerateRequest
from service.requests.state import ServiceState

PROBLEM_SCHEMA = ProblemDetails.model_json_schema()
# Inlined: within the OpenAPI document a reference into the schema's own definitions would point nowhere.
PROBLEM_SCHEMA["properties"]["errors"]["items"] = PROBLEM_SCHEMA.pop("$defs")["FieldError"]
PROBLEM: dict[str, Any] = {
    "description": "A problem (RFC 9457)",
    "content": {problem_responses.PROBLEM: {"schema": PROBLEM_SCHEMA}},
}
router = APIRouter(responses={"4XX": PROBLEM, "5XX": PROBLEM})

BINARY = {"schema": {"type": "string", "format": "binary"}}
GENERATED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The images: JSON, one picture (a grid for n > 1), or a float32 array (n, C, H, W)",
        "content": {
            **dict.fromkeys(responses.FORMATS, BINARY),
            responses.EVENTS: streaming.schema("queued", "step", "completed", "error"),
        },
    },
    304: {"description": "`If-None-Match` matches the ETag of this request. Nothing was computed"},
}


# A dependency that is no coroutine runs in a thread, of which there are few, and a probe waits for one with the rest.
async def get_state(request: Request) -> ServiceState:
    state: ServiceState = request.app.state.service
    return state


State = Annotated[ServiceState, Depends(get_state)]


async def disconnected(receive: Receive) -> None:
    """Returns when the client goes away."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def get_origin(request: Request) -> Origin:
    return Origin(
        id=correlation_id.get() or "",
        caller=auth.caller(request),
        budget=auth.budget(request),
        left=partial(disconnected, request.receive),
        arrived_s=request.state.arrived_s,
        log_fields=request.scope["state"],
    )


RequestOrigin = Annotated[Origin, Depends(get_origin)]


@router.post("/generate", response_model=GenerateResponse, responses=GENERATED)
async def generate(
    body: GenerateRequest,
    state: State,
    origin: RequestOrigin,
    accept: Annotated[str, Header()] = "*/*",
    if_none_match: Annotated[str, Header()] = "",
) -> Response:
    """Generate images. The same request always gives the same images, at any load."""
    media_type = responses.negotiate(accept)
    uploads = await receive(state, body)
    generation = Generation.begin(state, origin, body, responses.encoding_for(media_type, body.format), uploads)
    headers = {**responses.headers(generation), "ETag": generation.tag, "Vary": "Accept"}
    if is_match(generation.tag, if_none_match):
        return Response(status_code=304, headers=headers)
    if media_type == responses.EVENTS:
        return streaming.respond(generation, streaming.GenerateEvents(generation), headers)
    result = await generation.result()
    content = result.files[0]
    if media_type == responses.JSON:
        timing = responses.timing(result.job, origin.arrived_s)
        content = await responses.written(result.files, lambda: responses.json(generation, result.files, timing))
    return Response(content, media_type=media_type, headers={**headers, **responses.result_headers(generation, result)})


@router.delete("/requests/{id}", status_code=204)
async def cancel(id: str, request: Request, state: State) -> None:
    """Cancel the caller's running requests with this id, before their next step."""
    state.in_flight.cancel(id, auth.caller(request))


@router.post("/admin/reload")
async def reload(state: State) -> ReadinessInfo:
    """Load and warm up changed bundles beside the served ones, then switch. No request fails."""
    await asyncio.wrap_future(state.models.reload())
    return readiness(state)


@router.get("/methods")
async def methods(state: State) -> list[MethodInfo]:
    """Served models: classes, steps, solvers, measured quality and speed."""
    return [responses.describe(model) for model in state.models.served().values()]


@router.get("/healthz", responses={503: {"description": "The engine has stopped: restart the process"}})
async def healthz(state: State, response: Response) -> dict[str, str]:
    """Liveness: 503 if the engine has stopped."""
    if state.models.readiness().status == "engine stopped":
        response.status_code = 503
        return {"status": "engine stopped"}
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"model": ReadinessInfo, "description": "Not ready"}})
async def readyz(state: State, response: Response) -> ReadinessInfo:
    """Readiness: whether requests are served, by which methods, and which bundles were refused."""
    ready = readiness(state)
    response.status_code = 200 if ready.status == "ready" else 503
    return ready


def readiness(state: ServiceState) -> ReadinessInfo:
    return ReadinessInfo.model_validate(state.models.readiness(), from_attributes=True)


@router.get("/metrics", response_class=Response, responses={200: {"content": {CONTENT_TYPE_LATEST: {}}}})
async def metrics(state: State) -> Response:
    """Metrics for Prometheus."""
    return Response(generate_latest(state.metrics.registry), media_type=CONTENT_TYPE_LATEST)
