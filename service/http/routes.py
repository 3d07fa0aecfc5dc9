"""The HTTP surface: thin handlers from a parsed request to the engine and back."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.sse import EventSourceResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.errors import ProblemDetails
from service.http import auth, problem_responses, responses, streaming
from service.http.schemas import GenerateRequest, GenerateResponse, MethodInfo, Readiness
from service.registry.registry import Service
from service.requests.generation import Generation

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
    304: {"description": "`If-None-Match` names what this request would give; nothing was computed"},
}


def get_service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Served = Annotated[Service, Depends(get_service)]


@router.post("/generate", response_model=GenerateResponse, responses=GENERATED)
async def generate(
    request: Request,
    body: GenerateRequest,
    accept: Annotated[str, Header()] = "*/*",
    if_none_match: Annotated[str, Header()] = "",
) -> Response:
    """Generate images. The same request always gives the same images, whatever else the service is doing."""
    form = responses.negotiate(accept)
    generation = Generation.begin(request, body, form)
    headers = {**generation.headers, "ETag": generation.tag, "Vary": "Accept"}
    if responses.is_match(generation.tag, if_none_match):
        return Response(status_code=304, headers=headers)
    if form == responses.EVENTS:
        voice = streaming.OwnVoice(generation)
        return EventSourceResponse(await streaming.stream(generation, voice), headers=headers)
    made = await generation.made()
    content = generation.json(made.files, made.timing) if form == responses.JSON else made.files[0]
    return Response(content, media_type=form, headers={**headers, **made.headers})


@router.delete("/requests/{id}", status_code=204)
async def cancel(id: str, request: Request, service: Served) -> None:
    """Cancels the caller's requests under way with this id; their rows are free before the next step."""
    service.desk.cancel(id, auth.caller(request))


@router.post("/admin/reload")
async def reload(service: Served) -> Readiness:
    """Loads and warms up what changed in the bundle folder beside what is served, then switches. No request fails."""
    await asyncio.to_thread(service.reload)
    return service.readiness()


@router.get("/methods")
async def methods(service: Served) -> list[MethodInfo]:
    """What is served: models, their classes, steps and solvers, and their measured quality and speed."""
    return [responses.describe(bundle) for bundle in service.bundles.values()]


@router.get("/healthz", responses={503: {"description": "The engine has stopped: start the process anew"}})
async def healthz(service: Served, response: Response) -> dict[str, str]:
    """Whether the process can go on: it answers, and its engine has not stopped."""
    if service.readiness().status == "engine stopped":
        response.status_code = 503
        return {"status": "engine stopped"}
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"model": Readiness, "description": "Not ready"}})
async def readyz(service: Served, response: Response) -> Readiness:
    """Whether requests are served, by which methods, and which bundles were refused and why."""
    readiness = service.readiness()
    response.status_code = 200 if readiness.status == "ready" else 503
    return readiness


@router.get("/metrics", response_class=Response, responses={200: {"content": {CONTENT_TYPE_LATEST: {}}}})
async def metrics(service: Served) -> Response:
    """For Prometheus."""
    return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)
