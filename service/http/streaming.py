"""An answer as a stream of server-sent events, while it is computed; a protocol's encoder says what each event says."""

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any, Protocol

import orjson
import structlog
from fastapi.sse import format_sse_event

from service.engine.jobs import Job, Progress
from service.errors import Problem
from service.http import responses
from service.http.schemas import Timing
from service.requests.encoding import encode
from service.requests.generation import Generation
from service.requests.request import Format

log = structlog.get_logger()


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


def stream(generation: Generation, encoder: EventEncoder) -> AsyncIterator[bytes]:
    """Starts the job. A refusal is raised here, before the answer has begun; what fails later is an event."""
    job, updates = generation.job(), asyncio.Queue[Progress | None]()
    loop = asyncio.get_running_loop()
    job.watch = lambda progress: loop.call_soon_threadsafe(updates.put_nowait, progress)
    accepted = generation.submit(job, generation.state.engine.submit)
    ended = asyncio.create_task(generation.wait(accepted))
    ended.add_done_callback(lambda _: updates.put_nowait(None))  # after the last step: the loop keeps the order
    return _events(generation, encoder, ended, updates)


async def _events(
    generation: Generation, encoder: EventEncoder, ended: asyncio.Task[Job], updates: asyncio.Queue[Progress | None]
) -> AsyncIterator[bytes]:
    try:
        if content := encoder.accepted():
            yield content
        while (progress := await updates.get()) is not None:
            if content := encoder.step(progress, await _preview(progress, encoder.preview_format)):
                yield content
        job = await ended
        files = await generation.files(job)
        yield encoder.completed(files, responses.timing(job, generation.origin.arrived_s))
    except Problem as problem:
        yield encoder.failed(problem)
    except Exception as error:
        log.error("a stream failed", exc_info=error)
        yield encoder.failed(Problem("an error of the server's own; its log says which"))
    finally:
        ended.cancel()


async def _preview(progress: Progress, format: Format) -> str | None:
    """Base64 of the image so far, where the caller asked for it."""
    if progress.preview is None:
        return None
    file = await asyncio.to_thread(encode, progress.preview[None], format)
    return base64.b64encode(file).decode()
