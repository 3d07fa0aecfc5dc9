"""An answer as a stream of server-sent events, while it is computed; a protocol's voice says what each event says."""

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
from service.http.schemas import Format, Timing
from service.requests.encoding import encode
from service.requests.generation import Generation

log = structlog.get_logger()


class Voice(Protocol):
    """What a protocol says on the way; nothing where it has no word for it."""

    preview_format: Format

    def accepted(self) -> bytes: ...
    def step(self, progress: Progress, preview: str | None) -> bytes: ...  # base64 of the image so far
    def completed(self, files: list[bytes], timing: Timing) -> bytes: ...
    def failed(self, problem: Problem) -> bytes: ...


class OwnVoice:
    """`queued`, each `step`, then `completed` with the JSON answer, or `error` with the problem."""

    preview_format: Format = "png"

    def __init__(self, generation: Generation) -> None:
        self.generation = generation

    def accepted(self) -> bytes:
        return event("queued", {"id": self.generation.id, "seed": self.generation.sampling.seed})

    def step(self, progress: Progress, preview: str | None) -> bytes:
        step = {"image": progress.image, "index": progress.index, "of": progress.of}
        return event("step", step if preview is None else {**step, "preview": preview})

    def completed(self, files: list[bytes], timing: Timing) -> bytes:
        return format_sse_event(event="completed", data_str=self.generation.json(files, timing).decode())

    def failed(self, problem: Problem) -> bytes:
        return event("error", problem.body())


def schema(*names: str) -> dict[str, Any]:
    """The description of a stream of these events, for OpenAPI."""
    data = {"type": "string", "contentMediaType": "application/json"}
    properties = {"event": {"type": "string", "enum": list(names)}, "data": data}
    return {"schema": {"type": "object", "properties": properties, "required": list(properties)}}


async def stream(generation: Generation, voice: Voice) -> AsyncIterator[bytes]:
    """Starts the job; a refusal is raised here, before the answer has begun, and what fails later is an event."""
    job, steps = generation.job(), asyncio.Queue[Progress | None]()
    loop = asyncio.get_running_loop()
    job.watch = lambda progress: loop.call_soon_threadsafe(steps.put_nowait, progress)
    running = asyncio.create_task(generation.run(job))
    running.add_done_callback(lambda _: steps.put_nowait(None))  # comes after the last step: the loop keeps the order
    await asyncio.sleep(0)  # the task's first turn, in which it is let in or refused
    if running.done():
        running.result()
    attended = generation.service.desk.attend(generation.id, generation.caller, generation.receive, _outcome(running))
    ended = asyncio.create_task(attended)
    ended.add_done_callback(lambda _: steps.put_nowait(None))
    return _events(generation, voice, ended, steps)


def event(name: str, data: dict[str, Any]) -> bytes:
    return format_sse_event(event=name, data_str=orjson.dumps(data).decode())


async def _outcome(running: asyncio.Task[Job]) -> Job:
    return await running


async def _events(
    generation: Generation, voice: Voice, ended: asyncio.Task[Job], steps: asyncio.Queue[Progress | None]
) -> AsyncIterator[bytes]:
    try:
        if said := voice.accepted():
            yield said
        while (progress := await steps.get()) is not None:
            preview = None
            if progress.preview is not None:
                file = await asyncio.to_thread(encode, progress.preview[None], voice.preview_format)
                preview = base64.b64encode(file).decode()
            if said := voice.step(progress, preview):
                yield said
        job = await ended
        files = await generation.files(job)
        timing, _ = responses.timing(job, generation.arrived_s, 0.0)
        yield voice.completed(files, timing)
    except Problem as problem:
        yield voice.failed(problem)
    except Exception as error:
        log.error("a stream failed", exc_info=error)
        yield voice.failed(Problem("an error of the server's own; its log says which"))
    finally:
        ended.cancel()
