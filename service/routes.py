"""The HTTP surface: thin handlers from a parsed request to the engine and back."""

import asyncio
import base64
import hashlib
import time
from typing import Annotated, Any

import mimeparse
import numpy as np
import orjson
from asgi_correlation_id import correlation_id
from fastapi import APIRouter, Depends, Header, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service import frontier, tracing
from service.bundle import Bundle, Sampling
from service.core import Job
from service.encode import MEDIA_TYPES, encode
from service.errors import MEDIA_TYPE as PROBLEM_TYPE
from service.errors import NotAcceptable, ProblemDetails
from service.keys import charged
from service.schemas import (
    GeneratedImage,
    GenerateRequest,
    GenerateResponse,
    MethodInfo,
    ModelRef,
    Range,
    Readiness,
    SolverInfo,
    Steps,
    Timing,
)
from service.service import Service

router = APIRouter()

JSON = "application/json"
FORMATS = {media_type: format for format, media_type in MEDIA_TYPES.items()}
ANSWERS = [*reversed(FORMATS), JSON]  # mimeparse takes the last of those that suit equally well: JSON for */*
PROBLEM_SCHEMA = ProblemDetails.model_json_schema()
# Inlined: within the OpenAPI document a reference into the schema's own definitions would point nowhere.
PROBLEM_SCHEMA["properties"]["errors"]["items"] = PROBLEM_SCHEMA.pop("$defs")["FieldError"]
PROBLEM: dict[str, Any] = {
    "description": "A problem (RFC 9457)",
    "content": {PROBLEM_TYPE: {"schema": PROBLEM_SCHEMA}},
}
BINARY = {"schema": {"type": "string", "format": "binary"}}
GENERATED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The images: JSON, one picture (a grid for n > 1), or a float32 array (n, C, H, W)",
        "content": dict.fromkeys(FORMATS, BINARY),
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
    service: Served,
    accept: Annotated[str, Header()] = "*/*",
    if_none_match: Annotated[str, Header()] = "",
) -> Response:
    """Generate images. The same request always gives the same images, whatever else the service is doing."""
    arrived_s = time.perf_counter()
    answer = negotiate(accept)
    body, chosen = frontier.choose(body, service.measured_points())
    bundle = service.find(body.method)
    request.state.method = body.method
    sampling = bundle.resolve(body)
    service.metrics.requested_steps.labels(body.method, sampling.solver).observe(sampling.steps)
    headers = {"ETag": etag(sampling, answer, body.format), "Vary": "Accept", "Trilemma-Seed": str(sampling.seed)}
    if chosen is not None:
        headers["Trilemma-Chosen"] = chosen
    if is_match(headers["ETag"], if_none_match):
        return Response(status_code=304, headers=headers)
    job = bundle.job(sampling, correlation_id.get() or "", arrived_s)
    with charged(request, job.n * len(job.table) * service.engine.row_step_s):
        await service.engine.run(job)
    service.metrics.queue_seconds.labels(body.method).observe(job.started_s - job.submitted_s)
    response = await asyncio.to_thread(render, job, bundle, sampling, answer, body, headers)
    tracing.record(job, answered_s=time.perf_counter())
    return response


@router.get("/methods")
async def methods(service: Served) -> list[MethodInfo]:
    """What is served: models, their classes, steps and solvers, and their measured quality and speed."""
    return [describe(bundle) for bundle in service.bundles.values()]


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Whether the process answers."""
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


def negotiate(accept: str) -> str:
    """The media type of the answer. Raises NotAcceptable."""
    try:
        best = mimeparse.best_match(ANSWERS, accept.lower() or "*/*")
    except mimeparse.MimeTypeParseException:
        best = ""
    if not best:
        raise NotAcceptable(accept, ANSWERS)
    return str(best)


def etag(sampling: Sampling, answer: str, format: str) -> str:
    """Names an answer's images and form. Weak for JSON, whose id and timing differ from call to call."""
    form = f"{answer};{format}" if answer == JSON else answer
    digest = hashlib.sha256(f"{sampling.model_dump_json()} {form}".encode()).hexdigest()
    return f'W/"{digest}"' if answer == JSON else f'"{digest}"'


def is_match(tag: str, if_none_match: str) -> bool:
    """Weak comparison (RFC 9110, section 13.1.2) with a list of tags."""
    asked = [each.strip().removeprefix("W/") for each in if_none_match.split(",")]
    return tag.removeprefix("W/") in asked


def render(
    job: Job, bundle: Bundle, sampling: Sampling, answer: str, body: GenerateRequest, headers: dict[str, str]
) -> Response:
    """The answer with its images encoded."""
    start_s = time.perf_counter()
    images = np.stack([image.pixels for image in job.images])
    if answer == JSON:
        files = [encode(image[None], body.format) for image in images]
    else:
        files = [encode(images, FORMATS[answer])]
    end_s = time.perf_counter()
    timing = Timing(
        queue_ms=1000 * (job.started_s - job.submitted_s),
        compute_ms=1000 * (job.finished_s - job.started_s),
        total_ms=1000 * (end_s - job.submitted_s),
    )
    headers["Server-Timing"] = (
        f"queue;dur={timing.queue_ms:.3f}, compute;dur={timing.compute_ms:.3f}, "
        f"encode;dur={1000 * (end_s - start_s):.3f}, total;dur={timing.total_ms:.3f}"
    )
    if answer != JSON:
        return Response(files[0], media_type=answer, headers=headers)
    classes = bundle.manifest.classes
    response = GenerateResponse(
        id=job.id,
        method=sampling.method,
        steps=sampling.steps,
        solver=sampling.solver,
        settings=dict(sampling.settings),
        chosen=headers.get("Trilemma-Chosen"),
        seed=sampling.seed,
        class_label=classes[sampling.label] if sampling.label < len(classes) else None,
        images=[
            GeneratedImage(index=i, data=base64.b64encode(file).decode(), sha256=hashlib.sha256(file).hexdigest())
            for i, file in enumerate(files)
        ],
        timing=timing,
        model=ModelRef(name=bundle.manifest.name, digest=bundle.digest),
    )
    return Response(orjson.dumps(response.model_dump()), media_type=JSON, headers=headers)


def describe(bundle: Bundle) -> MethodInfo:
    manifest = bundle.manifest
    solvers = [
        SolverInfo(
            name=name,
            summary=solver.summary,
            settings={s: Range(min=r.low, max=r.high, default=r.default) for s, r in solver.settings.items()},
        )
        for name, solver in bundle.family.SOLVERS.items()
    ]
    return MethodInfo(
        method=manifest.name,
        family=manifest.family,
        model=ModelRef(name=manifest.name, digest=bundle.digest),
        image_shape=manifest.shape,
        classes=manifest.classes,
        steps=Steps(min=1, max=bundle.max_steps, default=manifest.recommended_steps),
        solvers=solvers,
        measured=manifest.measured,
    )
