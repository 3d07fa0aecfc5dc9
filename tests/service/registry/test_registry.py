"""Starting, serving, overloaded, stopped: what the whole application says of itself."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.engine.placement import Placement
from service.engine.runtime import HostStates, StepInputs
from service.settings import Settings
from tests.conftest import WITHIN_S, ToyRuntime, write_bundle
from tests.service.conftest import Held, NotANumber, generate, serve


def test_beyond_the_queue_it_answers_429_and_says_when_to_come_back(tmp_path: Path) -> None:
    write_bundle(tmp_path / "toy")
    runtime = Held()
    with serve(tmp_path, runtime, max_queued_images=64) as client:
        first: list[Any] = []
        asking = threading.Thread(target=lambda: first.append(generate(client, n=60)))
        asking.start()
        assert runtime.entered.wait(WITHIN_S)
        refused = generate(client, n=60, seed=2)
        assert (refused.status_code, refused.json()["type"]) == (429, "urn:trilemma:overloaded")
        assert refused.headers["content-type"] == "application/problem+json"
        assert int(refused.headers["retry-after"]) >= 1
        assert 'trilemma_rejections_total{reason="overloaded"} 1.0' in client.get("/metrics").text
        runtime.go.set()
        asking.join()
        assert first[0].status_code == 200
        assert generate(client, n=5).status_code == 200


def test_auto_counts_what_is_queued(tmp_path: Path) -> None:
    points = [
        {"steps": steps, "solver": "ddim", "settings": {"eta": 0.0}, "alone_ms": steps, "frechet_distance": 1 / steps}
        for steps in (2, 20)
    ]
    write_bundle(tmp_path / "toy", measured={"points": points})
    runtime = Held()
    budget = {"method": "auto", "max_ms": 1_000_000}
    with serve(tmp_path, runtime, workers=1, max_backlog_s=10_000, max_request_s=10_000) as client:
        app: Any = client.app
        service = app.state.service
        service.engine.scheduler.costs.set(service.models.served()["toy"].digest, {1: 10.0})
        answers: list[Any] = []
        queue: list[dict[str, Any]] = [{"steps": 62, "deadline_ms": 1_000_000}, budget]
        asking = [threading.Thread(target=lambda body=body: answers.append(generate(client, **body))) for body in queue]
        for count, thread in enumerate(asking, start=1):
            thread.start()
            assert runtime.entered.wait(WITHIN_S)
            while len(service.engine.jobs) < count:
                time.sleep(0.001)
        runtime.go.set()
        for thread in asking:
            thread.join()
        service.engine.scheduler.costs.set(service.models.served()["toy"].digest, {1: 10.0})
        answers.append(generate(client, **budget, n=2))
    assert {answer.status_code for answer in answers} == {200}
    assert sorted(answer.json()["steps"] for answer in answers[:2]) == [2, 62]
    assert answers[2].json()["steps"] == 20


def test_an_engine_that_stopped_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bundle(tmp_path / "toy")
    with serve(tmp_path, ToyRuntime()) as client:
        app: Any = client.app
        monkeypatch.setattr(app.state.service.engine.scheduler, "next_batch", lambda now: None)
        assert generate(client).json()["type"] == "urn:trilemma:step-failed"
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (503, "engine stopped")
        assert generate(client).status_code == 503


def test_a_bad_bundle_is_reported_and_the_good_one_serves(tmp_path: Path, runtime: ToyRuntime) -> None:
    write_bundle(tmp_path / "good")
    write_bundle(tmp_path / "bad", name="bad", format_version=7)
    with serve(tmp_path, runtime) as client:
        ready = client.get("/readyz")
        assert ready.status_code == 200
        assert ready.json()["methods"] == ["toy"]
        assert "format version 7" in ready.json()["failed_bundles"]["bad"]
        assert generate(client).status_code == 200
        assert "trilemma_failed_bundles 1.0" in client.get("/metrics").text


class LosesARow(ToyRuntime):
    def step(self, inputs: StepInputs) -> tuple[HostStates, HostStates]:
        x, x0 = super().step(inputs)
        return HostStates(x.array[1:]), HostStates(x0.array[1:])


@pytest.mark.parametrize(
    ("runtime", "reason"), [(NotANumber(), "not finite"), (LosesARow(), r"shape (0, 1, 4, 4) for one of (1, 1, 4, 4)")]
)
def test_a_model_that_gives_nonsense_at_warm_up_is_not_served(tmp_path: Path, runtime: ToyRuntime, reason: str) -> None:
    write_bundle(tmp_path / "toy")
    with serve(tmp_path, runtime) as client:
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (503, "no model")
        assert reason in ready.json()["failed_bundles"]["toy"]


def test_until_the_models_are_loaded_it_is_alive_and_not_ready(tmp_path: Path, runtime: ToyRuntime) -> None:
    write_bundle(tmp_path / "toy")
    release = threading.Event()

    def slow(model: Placement, threads: int) -> ToyRuntime:
        assert release.wait(WITHIN_S)
        return runtime

    with TestClient(create_app(Settings(bundles=tmp_path), open_runtime=slow)) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        assert (client.get("/readyz").status_code, client.get("/readyz").json()["status"]) == (503, "starting")
        answer = generate(client)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        release.set()
