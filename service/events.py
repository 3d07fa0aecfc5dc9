"""An answer as a stream of server-sent events: `queued`, `step`s, then `completed` or `error`."""

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import orjson
import structlog
from fastapi.sse import format_sse_event
from starlette.types import Receive

from service import answer
from service.core import Job, Progress
from service.encode import encode
from service.errors import Problem
from service.generation import Generation

log = structlog.get_logger()


async def stream(generation: Generation, receive: Receive) -> AsyncIterator[bytes]:
    """Starts the job; a refusal is raised here, before the answer has begun, and what fails later is an event."""
    job, steps = generation.job(), asyncio.Queue[Progress | None]()
    loop = asyncio.get_running_loop()
    job.watch = lambda progress: loop.call_soon_threadsafe(steps.put_nowait, progress)
    running = asyncio.create_task(generation.run(job))
    running.add_done_callback(lambda _: steps.put_nowait(None))  # comes after the last step: the loop keeps the order
    await asyncio.sleep(0)  # the task's first turn, in which it is let in or refused
    if running.done():
        running.result()
    ended = asyncio.create_task(generation.service.desk.attend(generation.id, receive, _outcome(running)))
    ended.add_done_callback(lambda _: steps.put_nowait(None))
    return _events(generation, ended, steps)


async def _outcome(running: asyncio.Task[Job]) -> Job:
    return await running


async def _events(
    generation: Generation, ended: asyncio.Task[Job], steps: asyncio.Queue[Progress | None]
) -> AsyncIterator[bytes]:
    try:
        yield _event("queued", {"id": generation.id, "seed": generation.sampling.seed})
        while (progress := await steps.get()) is not None:
            step: dict[str, Any] = {"image": progress.image, "index": progress.index, "of": progress.of}
            if progress.preview is not None:
                file = await asyncio.to_thread(encode, progress.preview[None], "png")
                step["preview"] = base64.b64encode(file).decode()
            yield _event("step", step)
        job = await ended
        files = await generation.files(job)
        timing, _ = answer.timing(job, generation.arrived_s, 0.0)
        yield format_sse_event(event="completed", data_str=generation.json(files, timing).decode())
    except Problem as problem:
        yield _event("error", problem.body())
    except Exception as error:
        log.error("a stream failed", exc_info=error)
        yield _event("error", Problem("an error of the server's own; its log says which").body())
    finally:
        ended.cancel()


def _event(name: str, data: dict[str, Any]) -> bytes:
    return format_sse_event(event=name, data_str=orjson.dumps(data).decode())
