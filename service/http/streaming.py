"""An answer as a stream of server-sent events, while it is computed. An encoder gives them a protocol's form."""

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

import orjson
import structlog
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event

from service.engine.jobs import Job, Progress
from service.errors import Problem
from service.http import responses
from service.http.schemas import Timing
from service.requests import watched
from service.requests.encoding import encode
from service.requests.generation import Generation
from service.requests.pending_steps import PendingSteps
from service.requests.request import Format

log = structlog.get_logger()

PING_S = 15.0  # proxies commonly close a connection that is silent for a minute
HEADERS = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx passes each event on at once
}


class EventEncoder(Protocol):
    """A protocol's events; empty bytes where it has no event for it."""

    preview_format: Format

    def accepted(self) -> bytes: ...
    def step(self, progress: Progress, preview: str | None) -> bytes: ...  # base64 of the image so far
    def completed(self, files: list[bytes], timing: Timing) -> bytes: ...
    def failed(self, problem: Problem) -> bytes: ...


class GenerateEvents:
    """`queued`, each `step`, then `completed` with the JSON answer, or `error` with the problem."""

    preview_format: Format = "png"

    def __init__(self, generation: Generation) -> None:
        self.generation = generation

    def accepted(self) -> bytes:
        return event("queued", {"id": self.generation.origin.id, "seed": self.generation.sampling.seed})

    def step(self, progress: Progress, preview: str | None) -> bytes:
        step = {"image": progress.image, "index": progress.index, "of": progress.of}
        return event("step", step if preview is None else {**step, "preview": preview})

    def completed(self, files: list[bytes], timing: Timing) -> bytes:
        return format_sse_event(event="completed", data_str=responses.json(self.generation, files, timing).decode())

    def failed(self, problem: Problem) -> bytes:
        return event("error", problem.body())


def schema(*names: str) -> dict[str, Any]:
    """The description of a stream of these events, for OpenAPI."""
    data = {"type": "string", "contentMediaType": "application/json"}
    properties = {"event": {"type": "string", "enum": list(names)}, "data": data}
    return {"schema": {"type": "object", "properties": properties, "required": list(properties)}}


def event(name: str, data: dict[str, Any]) -> bytes:
    return format_sse_event(event=name, data_str=orjson.dumps(data).decode())


def respond(generation: Generation, encoder: EventEncoder, headers: Mapping[str, str]) -> EventSourceResponse:
    """Starts the job. A refusal is raised here, before the answer has begun; what fails later is an event."""
    ended, steps = watched.start(generation)
    return EventSourceResponse(_events(generation, encoder, ended, steps), headers={**headers, **HEADERS})


async def _events(
    generation: Generation, encoder: EventEncoder, ended: asyncio.Task[Job], steps: PendingSteps
) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    try:
        if accepted := encoder.accepted():
            yield accepted
        ping_s = loop.time() + PING_S
        while (content := await _next_event(encoder, steps, ping_s)) is not None:
            if not content and loop.time() >= ping_s:
                content = KEEPALIVE_COMMENT
            if content:
                yield content
                ping_s = loop.time() + PING_S
        job = await ended
        files = await generation.files(job)
        timing = responses.timing(job, generation.origin.arrived_s)
        yield await responses.written(files, lambda: encoder.completed(files, timing))
    except Problem as problem:
        yield encoder.failed(problem)
    except Exception as error:
        log.error("a stream failed", exc_info=error)
        yield encoder.failed(Problem("an error of the server's own; its log says which"))
    finally:
        ended.cancel()


async def _next_event(encoder: EventEncoder, steps: PendingSteps, until_s: float) -> bytes | None:
    """The event of the next step, empty where there is none by `until_s`; None after the last step."""
    try:
        async with asyncio.timeout_at(until_s):
            progress = await steps.get()
    except TimeoutError:
        return b""
    return None if progress is None else encoder.step(progress, await _preview(progress, encoder.preview_format))


async def _preview(progress: Progress, format: Format) -> str | None:
    """Base64 of the image so far, where the caller asked for it."""
    if progress.preview is None:
        return None
    file = await asyncio.to_thread(encode, progress.preview[None], format)
    return base64.b64encode(file).decode()
