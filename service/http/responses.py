"""What an answer says: its media type, its JSON, its headers."""

import asyncio
import base64
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TypeVar

import mimeparse
import orjson
from fastapi import Response
from starlette.types import Receive, Scope, Send

from service.engine.jobs import Job
from service.engine.placement import Placement
from service.errors import NotAcceptable
from service.http.schemas import (
    DefaultInfo,
    GeneratedImage,
    GenerateResponse,
    MethodInfo,
    ModelRef,
    Range,
    SolverInfo,
    Steps,
    Timing,
)
from service.requests.encoding import MEDIA_TYPES, Encoding, one_each, one_for_all
from service.requests.generation import Generation, Result
from service.requests.request import MAX_GUIDANCE, MIN_GUIDANCE, Format
from service.requests.scoring import DEFAULT_TERMS

JSON, EVENTS = "application/json", "text/event-stream"
FORMATS = {media_type: format for format, media_type in MEDIA_TYPES.items()}
AT_ONCE = 2**19  # bytes of images: the event loop writes their answer in a few milliseconds
T = TypeVar("T")
ANSWERS = (EVENTS, *reversed(FORMATS), JSON)  # JSON for */*


class InPieces(Response):
    """An answer whose body is never in one piece: to put together many MB would stop every thread."""

    def __init__(self, pieces: Sequence[bytes], headers: Mapping[str, str]) -> None:
        super().__init__(headers={**headers, "Content-Length": str(sum(map(len, pieces)))})
        self.pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for piece in self.pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@lru_cache(maxsize=64)  # a client always sends the same header, which takes longer to parse than a small body
def negotiate(accept: str, answers: tuple[str, ...] = ANSWERS) -> str:
    """The media type of the answer; of those that suit equally well the last. Raises NotAcceptable."""
    try:
        best = mimeparse.best_match(answers, accept.lower() or "*/*")
    except mimeparse.MimeTypeParseException:
        best = ""
    if not best:
        raise NotAcceptable(accept, answers)
    return str(best)


def encoding_for(media_type: str, format: Format) -> Encoding:
    """How an answer of this media type holds its images; an event stream ends in the JSON answer."""
    return one_for_all(FORMATS[media_type]) if media_type in FORMATS else one_each(format)


def headers(generation: Generation) -> dict[str, str]:
    """Those that are known before anything is computed."""
    seed = {"Trilemma-Seed": str(generation.sampling.seed)}
    return seed if generation.choice is None else {**seed, "Trilemma-Chosen": generation.choice}


def result_headers(generation: Generation, result: Result) -> dict[str, str]:
    return {**headers(generation), **timing_headers(result, generation.origin.arrived_s)}


def timing_headers(result: Result, arrived_s: float) -> dict[str, str]:
    times = timing(result.job, arrived_s)
    parts = {
        "queue": times.queue_ms,
        "compute": times.compute_ms,
        "encode": 1000 * result.encoding_s,
        "total": times.total_ms,
    }
    server_timing = ", ".join(f"{name};dur={ms:.3f}" for name, ms in parts.items())
    return {"Trilemma-Cache": result.source, "Server-Timing": server_timing}


def timing(job: Job | None, arrived_s: float) -> Timing:
    """Without a job nothing was computed."""
    queue_s = max(job.started_s - arrived_s, 0.0) if job else 0.0
    compute_s = job.finished_s - max(job.started_s, arrived_s) if job else 0.0
    total_s = time.perf_counter() - arrived_s
    return Timing(queue_ms=1000 * queue_s, compute_ms=1000 * compute_s, total_ms=1000 * total_s)


async def written(files: Sequence[bytes], write: Callable[[], T]) -> T:
    """The answer that `write` makes of these files; on a thread if they are long, as the event loop has others."""
    return write() if sum(map(len, files)) <= AT_ONCE else await asyncio.to_thread(write)


def json(generation: Generation, files: Sequence[bytes], timing: Timing) -> bytes:
    """The JSON answer."""
    sampling, model = generation.sampling, generation.model
    response = GenerateResponse(
        id=generation.origin.id,
        method=sampling.method,
        steps=sampling.steps,
        solver=sampling.solver,
        settings=dict(sampling.settings),
        chosen=generation.choice,
        seed=sampling.seed,
        class_label=class_name(model, sampling.label),
        guidance=sampling.guidance,
        strength=sampling.strength,
        images=[
            GeneratedImage(index=i, data=base64.b64encode(file).decode(), sha256=hashlib.sha256(file).hexdigest())
            for i, file in enumerate(files, start=sampling.index)
        ],
        timing=timing,
        model=ModelRef(name=model.name, digest=model.digest),
    )
    return orjson.dumps(response.model_dump())


def class_name(model: Placement, label: int) -> str | None:
    """None for no class."""
    classes = model.bundle.manifest.classes
    return classes[label] if label < len(classes) else None


def describe(model: Placement) -> MethodInfo:
    """A model's entry in `GET /methods`."""
    bundle, bound = model.bundle, model.bundle.bound
    solvers = [
        SolverInfo(
            name=name,
            summary=solver.summary,
            settings={s: Range(min=r.low, max=r.high, default=r.default) for s, r in solver.settings.items()},
            steps=list(solver.steps),
        )
        for name, solver in bundle.solvers.items()
    ]
    return MethodInfo(
        method=model.name,
        family=bundle.manifest.family,
        model=ModelRef(name=model.name, digest=model.digest),
        image_shape=bundle.manifest.shape,
        dataset=bundle.dataset,
        classes=bundle.manifest.classes,
        guidance=Range(min=MIN_GUIDANCE, max=MAX_GUIDANCE, default=1) if bundle.manifest.guidance else None,
        steps=Steps(min=1, max=bundle.max_steps, default=bundle.manifest.recommended_steps),
        likelihood=None if bound is None else Steps(min=1, max=bound.most, default=min(DEFAULT_TERMS, bound.most)),
        solvers=solvers,
        default=DefaultInfo(solver=bundle.default.solver, steps=bundle.default.steps),
        images=bundle.takes_images,
        inverts=bundle.inverter is not None,
        device=model.device,
        measured=bundle.manifest.measured.model_dump(exclude_unset=True),
    )
