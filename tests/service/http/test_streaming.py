"""Event streams: bounded for a client that does not read, never silent for long, and not kept by proxies."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.app import create_app
from service.engine.jobs import Progress
from service.http import streaming
from service.requests import pending_steps, watched
from service.requests.pending_steps import MAX_STEPS, PendingSteps
from service.settings import Settings
from tests.conftest import ToyRuntime, write_bundle
from tests.deploy.conftest import holding
from tests.service.conftest import Held, generate, serve

GENERATE = ("/generate", {"method": "toy", "steps": 1000, "seed": 1}, "text/event-stream")
OPENAI = (
    "/v1/images/generations",
    {"model": "toy", "prompt": "one", "num_inference_steps": 1000, "stream": True},
    "*/*",
)
PING = ": ping"


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[str, Held]]:
    """The URL of a server that waits in its first step until it is let go, and its runtime."""
    with holding(tmp_path, max_batch=4) as served:
        yield served


# --- the queue ------------------------------------------------------------------------------------------------------


def step(image: int, index: int, values: int = 0) -> Progress:
    return Progress(image, index, of=10_000, preview=np.zeros(values, dtype=np.float32) if values else None)


puts = st.tuples(st.integers(0, 3), st.sampled_from([0, 0, 1, 100, 300]))  # image, and the size of its preview
gets = st.none()


@given(st.lists(puts | gets, max_size=120))
def test_the_queue_is_bounded_in_order_and_drops_old_previews_first(actions: list[Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pending_steps, "MAX_STEPS", 8)
        patch.setattr(pending_steps, "MAX_PREVIEW_BYTES", 1600)
        asyncio.run(play(actions))


async def play(actions: list[Any]) -> None:
    queue, last = PendingSteps(), Counter[int]()
    kept: list[Progress] = []  # what must be there still, but for previews
    for action in actions:
        if action is None:
            assert not kept or place_of(await queue.get()) == place_of(kept.pop(0))
            continue
        image, values = action
        last[image] += 1
        queue.put(step(image, last[image], values))
        if len(kept) == 8:
            kept.remove(next(each for each in kept if each.index != last[each.image]))
        kept.append(step(image, last[image], values))
    queue.end()
    left = [progress async for progress in rest(queue)]
    assert [place_of(each) for each in left] == [place_of(each) for each in kept]
    has_preview = [each.preview is not None for each, put in zip(left, kept, strict=True) if put.preview is not None]
    assert has_preview == sorted(has_preview)  # the oldest were dropped
    if actions and actions[-1] is not None and actions[-1][1]:
        assert left[-1].preview is not None  # never the newest
    assert sum(each.preview.nbytes for each in left if each.preview is not None) <= 1600
    assert await queue.get() is None


def place_of(step: Progress | None) -> tuple[int, int]:
    assert step is not None
    return step.image, step.index


async def rest(queue: PendingSteps) -> AsyncIterator[Progress]:
    while (progress := await queue.get()) is not None:
        yield progress


# --- a client that does not read ------------------------------------------------------------------------------------


STREAM = {  # the scope of a request for an event stream
    "type": "http",
    "asgi": {"version": "3.0", "spec_version": "2.3"},
    "method": "POST",
    "path": "/generate",
    "query_string": b"",
    "headers": [(b"content-type", b"application/json"), (b"accept", b"text/event-stream"), (b"host", b"localhost")],
}


def test_a_stream_that_nobody_reads_holds_little_and_ends_in_the_images(tmp_path: Path) -> None:
    write_bundle(tmp_path / "toy")
    app = create_app(Settings(bundles=tmp_path, watch_s=0), lambda model, threads: ToyRuntime())
    body = {"method": "toy", "steps": 400, "n": 16, "seed": 1, "preview_every": 1}
    messages: list[Any] = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
    queues: list[PendingSteps] = []
    sent: list[bytes] = []

    async def play() -> None:
        reads = asyncio.Event()

        async def receive() -> Any:
            if not messages:
                await asyncio.Event().wait()
            return messages.pop()

        async def send(message: Any) -> None:
            if message.get("body"):
                sent.append(message["body"])
                await reads.wait()

        async with app.router.lifespan_context(app):
            while app.state.service.models.readiness().status != "ready":
                await asyncio.sleep(0)
            asking = asyncio.create_task(app(dict(STREAM), receive, send))
            while not (sent and not app.state.service.engine.jobs):
                await asyncio.sleep(0)
            await asyncio.sleep(0)  # the last steps have come
            (queue,) = queues
            assert len(queue._steps) == MAX_STEPS
            assert 0 < sum(preview.nbytes for preview in queue._previews.values()) <= pending_steps.MAX_PREVIEW_BYTES
            assert all(owned(preview) for preview in queue._previews.values())
            reads.set()
            await asking

    def noted() -> PendingSteps:
        queues.append(PendingSteps())
        return queues[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watched, "PendingSteps", noted)
        asyncio.run(play())
    names = [event.split(b"\n")[0] for event in sent]
    assert Counter(names) == {b"event: queued": 1, b"event: step": MAX_STEPS, b"event: completed": 1}
    last = {data["image"]: data["index"] for data in map(parsed, sent) if "of" in data}
    assert last == dict.fromkeys(range(16), 400)


def parsed(event: bytes) -> Any:
    return json.loads(event.split(b"data: ")[1])


def owned(array: Any) -> bool:
    """Whether it holds no more memory than its own."""
    while array.base is not None:
        array = array.base if array.base.nbytes == array.nbytes else pytest.fail("a view of a whole batch")
    return True


def test_a_client_that_reads_gets_every_step_and_every_preview(tmp_path: Path) -> None:
    write_bundle(tmp_path / "toy")
    with serve(tmp_path, ToyRuntime()) as client:
        text = generate(client, "text/event-stream", steps=100, n=4, preview_every=1).text
    steps = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith('data: {"image"')]
    assert Counter((each["image"], each["index"]) for each in steps) == Counter(
        (image, index) for image in range(4) for index in range(1, 101)
    )
    assert all("preview" in each for each in steps)


# --- silence, and proxies -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "body", "accept"), [GENERATE, OPENAI])
def test_a_stream_that_waits_is_not_silent_and_tells_proxies_to_pass_it_on(
    held: tuple[str, Held], monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any], accept: str
) -> None:
    url, _ = held
    monkeypatch.setattr(streaming, "PING_S", 0.01)
    with httpx.stream("POST", f"{url}{path}", json=body, headers={"Accept": accept}) as stream:
        assert stream.headers["cache-control"] == "no-store"
        assert stream.headers["x-accel-buffering"] == "no"
        lines = stream.iter_lines()
        assert [line for line, _ in zip((line for line in lines if line == PING), range(3), strict=False)] == [PING] * 3


def test_steps_that_are_no_events_of_a_protocol_do_not_keep_the_pings_away(
    held: tuple[str, Held], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, runtime = held
    monkeypatch.setattr(streaming, "PING_S", 0.0)
    runtime.go.set()
    path, body, _ = OPENAI
    with httpx.stream("POST", f"{url}{path}", json=body) as stream:
        lines = [line for line in stream.iter_lines() if line]
    assert lines[0] == PING
    assert lines[-2] == "event: image_generation.completed"


def test_a_stream_that_says_something_has_no_pings(tmp_path: Path) -> None:
    write_bundle(tmp_path / "toy")
    with serve(tmp_path, ToyRuntime()) as client:
        assert PING not in generate(client, "text/event-stream", steps=5).text
