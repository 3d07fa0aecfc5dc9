"""Deadlines, cancelling, caching, streaming and reloading over HTTP."""

import asyncio
import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from service.engine.runtime import HostStates, StepInputs
from tests.conftest import WITHIN_S, ToyRuntime, write_bundle
from tests.service.conftest import Held, generate, serve


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[TestClient, Held]]:
    write_bundle(tmp_path / "toy")
    runtime = Held()
    with serve(tmp_path, runtime) as client:
        yield client, runtime
        runtime.go.set()


def events(text: str) -> list[tuple[str, Any]]:
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append((fields["event"], json.loads(fields["data"])))
    return found


def in_background(client: TestClient, **request: Any) -> tuple[threading.Thread, list[Any]]:
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(generate(client, **request)))
    thread.start()
    return thread, answers


def test_a_deadline_that_cannot_be_met_is_refused_at_once(tmp_path: Path) -> None:
    write_bundle(tmp_path / "toy")
    with serve(tmp_path, ToyRuntime()) as client:
        service: Any = client.app.state.service  # type: ignore[attr-defined]
        service.engine.scheduler.costs.set(service.models.served()["toy"].digest, {1: 1.0, 4: 1.0})
        refused = generate(client, steps=5, deadline_ms=2000)
        assert (refused.status_code, refused.json()["type"]) == (429, "urn:trilemma:overloaded")
        assert generate(client, steps=5, deadline_ms=60_000).status_code == 200


def test_a_deadline_leaves_time_for_the_answer_but_no_more_than_a_tenth(tmp_path: Path) -> None:
    write_bundle(tmp_path / "toy")
    with serve(tmp_path, ToyRuntime()) as client:
        service: Any = client.app.state.service  # type: ignore[attr-defined]
        cases = [(1e-3, 66, 200), (5.0, 66, 429), (100.0, 66, 429), (100.0, 73, 200)]
        for seed, (answer_s, within_s, status) in enumerate(cases):  # seeds of their own: none comes from the cache
            service.engine.scheduler.costs.set(service.models.served()["toy"].digest, {1: 10.0, 4: 10.0})
            service.answer_time.seconds = answer_s
            answer = generate(client, steps=5, seed=seed, deadline_ms=1000 * within_s)  # 62.5 s at worst
            assert answer.status_code == status
        assert service.answer_time.seconds < 100.0  # it was measured


def test_the_slack_of_each_deadline_is_counted_and_of_nothing_else(tmp_path: Path) -> None:
    write_bundle(tmp_path / "toy")
    service: Any = None

    class Slow(ToyRuntime):
        def step(self, inputs: StepInputs) -> tuple[HostStates, HostStates]:
            if service is not None and inputs.y[0] == 1:
                service.engine.clock = lambda: time.perf_counter() + 100
            return super().step(inputs)

    with serve(tmp_path, Slow()) as client:
        service = client.app.state.service  # type: ignore[attr-defined]
        assert generate(client, steps=2).status_code == 200
        assert generate(client, steps=3, deadline_ms=60_000).status_code == 200
        assert generate(client, steps=2, deadline_ms=60_000, class_label=1).status_code == 200
        values = [
            service.metrics.registry.get_sample_value(f"trilemma_slack_seconds_{name}", {"method": "toy", **le})
            for name, le in (("bucket", {"le": "-10.0"}), ("bucket", {"le": "0.0"}), ("count", {}))
        ]
    assert values == [1, 1, 2]


def test_a_request_is_cancelled_by_its_id_and_gets_its_answer(held: tuple[TestClient, Held]) -> None:
    client, runtime = held
    answers: list[Any] = []
    headers = {"X-Request-ID": "mine"}
    body = {"method": "toy", "steps": 1000}
    asking = threading.Thread(target=lambda: answers.append(client.post("/generate", json=body, headers=headers)))
    asking.start()
    assert runtime.entered.wait(WITHIN_S)
    assert client.delete("/requests/other").status_code == 404
    assert client.delete("/requests/mine").status_code == 204
    asking.join()
    assert (answers[0].status_code, answers[0].json()["type"]) == (409, "urn:trilemma:cancelled")
    runtime.go.set()
    assert generate(client, steps=2).status_code == 200
    assert len(runtime.batches) < 20
    assert client.delete("/requests/mine").status_code == 404


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
def test_a_client_that_disconnects_frees_its_rows(held: tuple[TestClient, Held], accept: str) -> None:
    client, runtime = held
    service: Any = client.app.state.service  # type: ignore[attr-defined]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "method": "POST",
        "path": "/generate",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"accept", accept.encode())],
    }

    async def disconnect() -> None:
        asked = False

        async def receive() -> dict[str, Any]:
            nonlocal asked
            if not asked:
                asked = True
                return {"type": "http.request", "body": b'{"method": "toy", "steps": 1000}', "more_body": False}
            await asyncio.to_thread(runtime.entered.wait)
            return {"type": "http.disconnect"}

        async def send(_: Any) -> None:
            pass

        await client.app(scope, receive, send)
        while service.engine.jobs:
            await asyncio.sleep(0)

    asyncio.run(disconnect())
    runtime.go.set()
    assert generate(client, steps=2).status_code == 200
    assert len(runtime.batches) < 20


def test_the_second_answer_comes_from_the_cache_with_the_same_bytes(tmp_path: Path) -> None:
    write_bundle(tmp_path / "toy")
    runtime = ToyRuntime()
    with serve(tmp_path, runtime) as client:
        first = generate(client, "image/png")
        steps = len(runtime.batches)
        second = generate(client, "image/png")
        assert [each.headers["trilemma-cache"] for each in (first, second)] == ["miss", "hit"]
        assert (second.content, second.headers["etag"]) == (first.content, first.headers["etag"])
        assert len(runtime.batches) == steps
        assert generate(client).headers["trilemma-cache"] == "miss"
        assert generate(client).json()["timing"]["compute_ms"] == 0
        assert "trilemma_cache_hits_total 2.0" in client.get("/metrics").text
    with serve(tmp_path, runtime, cache_bytes=0) as client:
        assert [generate(client).headers["trilemma-cache"] for _ in range(2)] == ["miss", "miss"]


def test_identical_requests_in_flight_are_computed_once(held: tuple[TestClient, Held]) -> None:
    client, runtime = held
    leader, first = in_background(client, steps=3)
    assert runtime.entered.wait(WITHIN_S)
    follower, second = in_background(client, steps=3)
    while "trilemma_shared_total 1.0" not in client.get("/metrics").text:
        pass
    runtime.go.set()
    leader.join()
    follower.join()
    assert first[0].json()["images"] == second[0].json()["images"]
    assert first[0].json()["id"] != second[0].json()["id"]
    assert (first[0].headers["trilemma-cache"], second[0].headers["trilemma-cache"]) == ("miss", "shared")
    assert len(runtime.batches) == 3


def test_a_stream_tells_each_step_with_previews_and_ends_with_the_json_answer(tmp_path: Path) -> None:
    write_bundle(tmp_path / "toy")
    with serve(tmp_path, ToyRuntime()) as client:
        stream = generate(client, "text/event-stream", steps=4, n=2, preview_every=2)
        assert stream.headers["content-type"].startswith("text/event-stream")
        told = events(stream.text)
        assert [name for name, _ in told] == ["queued", *["step"] * 8, "completed"]
        steps = [data for name, data in told if name == "step"]
        for image in range(2):
            own = [data for data in steps if data["image"] == image]
            assert [(data["index"], "preview" in data) for data in own] == [(k, k % 2 == 0) for k in (1, 2, 3, 4)]
        assert {data["of"] for data in steps} == {4}
        preview = next(data["preview"] for data in steps if "preview" in data)
        assert Image.open(io.BytesIO(base64.b64decode(preview))).size == (4, 4)
        answer = generate(client, steps=4, n=2)
        assert told[-1][1]["images"] == answer.json()["images"]
        assert stream.headers["etag"] == answer.headers["etag"]


def test_a_stream_that_fails_ends_with_the_problem_and_one_refused_is_no_stream(tmp_path: Path) -> None:
    write_bundle(tmp_path / "toy")
    runtime = ToyRuntime()
    with serve(tmp_path, runtime, max_queued_images=64) as client:
        runtime.fail_on = {0}
        name, problem = events(generate(client, "text/event-stream", class_label=0).text)[-1]
        assert (name, problem["type"], problem["status"]) == ("error", "urn:trilemma:step-failed", 500)
        refused = generate(client, "text/event-stream", steps=1000, deadline_ms=1)
        assert (refused.status_code, refused.headers["content-type"]) == (429, "application/problem+json")


def test_every_priority_gives_the_same_bytes(tmp_path: Path) -> None:
    write_bundle(tmp_path / "toy")
    with serve(tmp_path, ToyRuntime(), cache_bytes=0) as client:
        made = [generate(client, "application/x-npy", priority=each).content for each in ("low", "normal", "high")]
    assert made[0] == made[1] == made[2]
    assert np.isfinite(np.load(io.BytesIO(made[0]))).all()
