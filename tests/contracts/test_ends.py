"""Every request ends in one answer, and nothing of it is left: cancels, disconnects, refusals and faults together."""

import asyncio
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient

from service.app import create_app
from service.engine.runtime import HostStates, StepInputs
from service.settings import Settings
from tests.conftest import ToyRuntime, write_bundle

REQUESTS = 1000


class Faulty(ToyRuntime):
    """Fails with rows of class 1, gives NaN to rows of class 2."""

    def __init__(self) -> None:
        super().__init__()
        self.fail_on = {1}

    def step(self, inputs: StepInputs) -> tuple[HostStates, HostStates]:
        x, x0 = super().step(inputs)
        x.array[inputs.y == 2] = float("nan")
        return x, x0


async def ask(app: FastAPI, body: dict[str, Any], accept: str, id: str, gone: asyncio.Event) -> list[int]:
    """The statuses of the answers to one request, whose client goes away when it is told to."""
    statuses, asked = [], False
    headers = [(b"content-type", b"application/json"), (b"accept", accept.encode()), (b"x-request-id", id.encode())]
    what = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "method": "POST", "path": "/generate"}

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app({**what, "query_string": b"", "headers": headers}, receive, send)
    return statuses


async def end_somehow(app: FastAPI, client: AsyncClient, number: int, chance: random.Random) -> tuple[str, int]:
    """Sends a request and lets it be answered, disconnects, or deletes it; which, and the status of its one answer."""
    body = {"method": "toy", "seed": number % 400, "steps": chance.randint(1, 9), "n": chance.randint(1, 3)}
    body["class_label"] = chance.choice([None, 0, 0, 0, 0, 1, 2])
    if chance.random() < 0.3:
        body["deadline_ms"] = chance.choice([1, 1000, 60_000])
    accept = chance.choice(["application/json", "image/png", "text/event-stream"])
    end, gone = chance.choice(["answer", "answer", "disconnect", "delete"]), asyncio.Event()
    asking = asyncio.create_task(ask(app, body, accept, str(number), gone))
    for _ in range(chance.randint(0, 40)):
        await asyncio.sleep(0)
    if end == "disconnect":
        gone.set()
    elif end == "delete":
        assert (await client.delete(f"/requests/{number}")).status_code in (204, 404)
    (status,) = await asking
    gone.set()
    return end, status


async def end_all(app: FastAPI) -> tuple[Counter[tuple[str, int]], str]:
    """How often REQUESTS requests ended how, and the metrics after them."""
    service, chance = app.state.service, random.Random(0)  # noqa: S311
    ends: Counter[tuple[str, int]] = Counter()
    async with app.router.lifespan_context(app), AsyncClient(transport=ASGITransport(app), base_url="http://t") as c:
        while (await c.get("/readyz")).json()["status"] == "starting":
            await asyncio.sleep(0)
        for start in range(0, REQUESTS, 40):
            wave = range(start, start + 40)
            ends.update(await asyncio.gather(*(end_somehow(app, c, number, chance) for number in wave)))
            digest = service.models.served()["toy"].digest
            service.engine.install(digest, service.engine.runtimes[digest], {1: 1e-4})  # in service again
        while service.engine.jobs:  # of those whose clients went away
            await asyncio.sleep(0)
        return ends, (await c.get("/metrics")).text


def test_after_a_thousand_cancels_disconnects_and_faults_every_request_has_ended_once_and_nothing_is_left(
    tmp_path: Path,
) -> None:
    write_bundle(tmp_path / "toy")
    settings = Settings(bundles=tmp_path, max_batch=4, workers=3, max_queued_images=64, watch_s=0)
    app = create_app(settings, lambda model, threads: Faulty())
    ends, metrics = asyncio.run(end_all(app))
    assert ends.total() == REQUESTS
    assert {status for _, status in ends} >= {200, 409, 429, 500}
    assert {"trilemma_active_images 0.0", "trilemma_waiting_images 0.0"} <= set(metrics.splitlines())
    service = app.state.service
    scheduler, counts = service.engine.scheduler, service.engine.scheduler.counts
    assert not scheduler.jobs
    assert counts.running.total() == scheduler.active == scheduler.waiting == counts.steps_left.total() == 0
    assert not service.in_flight._entries
    assert not service.coalescer._jobs
    assert not service.coalescer._waiting.total()
