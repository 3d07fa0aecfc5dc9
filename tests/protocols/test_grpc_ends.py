"""How calls over gRPC end: by their deadline, their client, a key, a limit, or the server's own end."""

import math
import os
import queue
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import InferenceServerClient, service_pb2
from tritonclient.utils import InferenceServerException

from loadtests.server_process import free_port
from tests.conftest import PATIENT, SHIPPED, ToyRuntime, write_bundle
from tests.deploy.conftest import running, wait_until
from tests.protocols.grpc_calls import details, failure, request, served, status_of, stub, tensors
from tests.service.conftest import Held
from tests.service.http.test_auth import line

CODE = grpc.StatusCode
LIVE = service_pb2.ServerLiveRequest()


@contextmanager
def holding(folder: Path, **settings: Any) -> Iterator[tuple[str, str, Any, Held]]:
    """A server that waits in its first step until it is let go."""
    write_bundle(folder / "bundles" / "toy")
    runtime = Held()
    with served(folder / "bundles", runtime, max_batch=4, **settings) as (url, address, app):
        try:
            yield url, address, app.state.service, runtime
        finally:
            runtime.go.set()


def noted_jobs(service: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The jobs that the engine gets from now on."""
    jobs: list[Any] = []
    submit = service.engine.submit
    monkeypatch.setattr(service.engine, "submit", lambda job: jobs.append(job) or submit(job))
    return jobs


def test_the_calls_deadline_is_the_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bundle(tmp_path / "toy")
    with served(tmp_path) as (_, address, app), InferenceServerClient(address) as client:
        jobs = noted_jobs(app.state.service, monkeypatch)
        client.infer("toy", [])
        client.infer("toy", [], client_timeout=100)
        client.infer("toy", tensors(deadline_ms=50_000), client_timeout=100)
        client.infer("toy", tensors(deadline_ms=200_000), client_timeout=100)
        client.infer("toy", [], client_timeout=10**6)  # beyond any deadline
        with stub(address) as calls:
            list(calls.ModelStreamInfer(iter([request(), request(seed=1)]), timeout=100))
    assert len(jobs) == 7
    within_s = [job.deadline_s - job.submitted_s for job in jobs]
    assert within_s[0] == within_s[4] == math.inf
    assert 40 < within_s[2] < 50.1
    others = [within_s[1], within_s[3], *within_s[5:]]
    assert 80 < min(others) <= max(others) < 102  # gRPC writes a timeout in few digits


def test_what_cannot_be_in_time_is_refused_at_once(tmp_path: Path) -> None:
    with holding(tmp_path) as (_, address, service, _), stub(address) as calls:
        service.engine.admission.max_queued_images = 0
        error = failure(calls.ModelInfer, request(), timeout=100)
        assert error.code() == CODE.RESOURCE_EXHAUSTED
        assert details(error) == ({}, 1)
        (refused,) = calls.ModelStreamInfer(iter([request()]), timeout=100)
        said = refused.infer_response.parameters
        assert (said["status"].string_param, said["retry_after_s"].uint64_param) == (
            "RESOURCE_EXHAUSTED",
            1,
        )


@pytest.mark.parametrize("streamed", [False, True])
def test_a_client_that_goes_away_frees_its_rows_before_the_next_step(tmp_path: Path, streamed: bool) -> None:
    with holding(tmp_path) as (url, address, service, runtime), stub(address) as calls:
        wanted = request(steps=1000)
        wanted.parameters["preview_every"].int64_param = 1
        call = calls.ModelStreamInfer(iter([wanted])) if streamed else calls.ModelInfer.future(request(steps=1000))
        assert runtime.entered.wait(60)
        call.cancel()
        wait_until(lambda: not service.engine.jobs)
        runtime.go.set()
        calls.ModelInfer(request(steps=2))
        wait_until(lambda: not service.in_flight._entries)
        assert len(runtime.batches) == 1 + 2  # the step that was under way, and the two of another
        metrics = httpx.get(f"{url}/metrics").text
    assert 'trilemma_request_seconds_count{method="toy",status="409"} 1.0' in metrics
    assert 'trilemma_request_seconds_count{method="toy",status="200"} 1.0' in metrics


def test_the_deadline_ends_a_call_and_its_job(tmp_path: Path) -> None:
    with holding(tmp_path) as (_, address, service, runtime), stub(address) as calls:
        error = failure(calls.ModelInfer, request(steps=2), timeout=0.5)
        assert error.code() == CODE.DEADLINE_EXCEEDED
        wait_until(lambda: not service.engine.jobs)
        assert len(runtime.batches) <= 1


def test_a_request_is_cancelled_by_its_id_over_http(tmp_path: Path) -> None:
    with holding(tmp_path) as (url, address, _, runtime), stub(address) as calls:
        call = calls.ModelInfer.future(request(), metadata=[("x-request-id", "mine")])
        assert runtime.entered.wait(60)
        assert httpx.delete(f"{url}/requests/mine").status_code == 204
        assert call.code() == CODE.CANCELLED
        assert call.details() == "request mine was cancelled"


def test_a_key_is_wanted_and_its_work_is_charged(tmp_path: Path) -> None:
    (tmp_path / "keys.toml").write_text(line("alice") + line("bob", "work_s_per_minute = 0.001"))
    write_bundle(tmp_path / "bundles" / "toy")
    with served(tmp_path / "bundles", keys=tmp_path / "keys.toml") as (url, address, _), stub(address) as calls:
        assert calls.ServerLive(LIVE).live
        with grpc.insecure_channel(address) as channel:
            assert health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()).status == 1
        for metadata in ([], [("authorization", "Bearer secret of mallory")], [("authorization", "secret of alice")]):
            assert status_of(calls.ModelInfer, request(), metadata=metadata) == CODE.UNAUTHENTICATED
            assert status_of(calls.ServerMetadata, service_pb2.ServerMetadataRequest(), metadata=metadata) == (
                CODE.UNAUTHENTICATED
            )
            assert status_of(list, calls.ModelStreamInfer(iter([request()]), metadata=metadata)) == CODE.UNAUTHENTICATED
        with InferenceServerClient(address) as client:
            client.infer("toy", [], headers={"authorization": "Bearer secret of alice"})
        bob = {"Authorization": "Bearer secret of bob"}
        assert httpx.post(f"{url}/generate", json={"method": "toy", "steps": 1000}, headers=bob).is_success
        error = failure(calls.ModelInfer, request(), metadata=[("authorization", "Bearer secret of bob")])
        assert error.code() == CODE.RESOURCE_EXHAUSTED
        assert "used up" in error.details()
        assert (details(error)[1] or 0) >= 1


def test_beyond_the_limit_of_calls_only_probes_are_answered(tmp_path: Path) -> None:
    with holding(tmp_path, max_connections=4) as (_, address, _, runtime), stub(address) as calls:
        waiting = [calls.ModelInfer.future(request(seed=seed)) for seed in range(4)]
        assert runtime.entered.wait(60)
        wait_until(lambda: status_of(calls.ModelInfer, request()) == CODE.UNAVAILABLE)
        assert calls.ServerLive(LIVE).live
        runtime.go.set()
        assert all(call.result().outputs for call in waiting)
        assert calls.ModelInfer(request()).outputs


def test_a_stream_that_sends_nothing_is_ended(tmp_path: Path) -> None:
    write_bundle(tmp_path / "toy")
    messages: queue.Queue[Any] = queue.Queue()
    with served(tmp_path, client_timeout_s=0.2) as (_, address, _), stub(address) as calls:
        stream = calls.ModelStreamInfer(iter(messages.get, None))
        messages.put(request())
        assert next(stream).infer_response.outputs
        assert status_of(next, stream) == CODE.DEADLINE_EXCEEDED
        messages.put(None)


def test_a_model_that_fails_is_an_error_of_the_servers_in_its_own_words(tmp_path: Path) -> None:
    write_bundle(tmp_path / "toy")
    runtime = ToyRuntime()
    runtime.fail_on = {1}
    with served(tmp_path, runtime) as (_, address, _), stub(address) as calls:
        error = failure(calls.ModelInfer, request(class_label=1))
        assert error.code() == CODE.INTERNAL
        assert error.details() == "a step of toy failed; the server's log says why"
        assert calls.ModelInfer(request(class_label=0)).outputs


def test_a_bug_of_the_servers_is_said_to_be_one_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bundle(tmp_path / "toy")
    with served(tmp_path) as (_, address, app), stub(address) as calls:
        monkeypatch.setattr(app.state.service.engine, "submit", lambda _: 1 // 0)
        error = failure(calls.ModelInfer, request())
        (streamed,) = calls.ModelStreamInfer(iter([request()]))
    assert error.code() == CODE.INTERNAL
    assert error.details() == streamed.error_message
    assert "error of the server's own" in error.details()


def test_a_signal_ends_it_after_every_accepted_call_has_its_answer(tmp_path: Path) -> None:
    shutil.copytree(SHIPPED, tmp_path / "ddim")
    url, port = f"http://127.0.0.1:{(http := free_port())}", free_port()
    options = ["--port", str(http), "--grpc-port", str(port), "--bundles", str(tmp_path), *PATIENT]
    command = [sys.executable, "-m", "service", *options, "--log-level", "warning"]
    answers: list[Any] = []

    def note(result: Any, error: InferenceServerException | None) -> None:
        answers.append(error or result)

    with (
        running(command, f"{url}/readyz") as process,
        InferenceServerClient(f"127.0.0.1:{port}") as client,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watching).status == 1
        client.start_stream(note)  # stays open
        client.async_stream_infer("ddim", tensors(steps=10, n=3), parameters={"preview_every": 10})
        for seed in range(8):
            client.async_infer("ddim", tensors(steps=10, n=2, seed=seed), note)
        wait_until(lambda: accepted(url) == 3 + 8 * 2)
        os.kill(process.pid, signal.SIGTERM)
        assert [response.status for response in watching] == [2]  # NOT_SERVING, then the end
        assert process.wait(120) == 0
        client.stop_stream()
    images = [answer.as_numpy("images") for answer in answers if not isinstance(answer, InferenceServerException)]
    assert [len(each) for each in images if each is not None].count(2) == 8
    assert [len(each) for each in images if each is not None].count(3) == 1
    (last,) = [answer for answer in answers if isinstance(answer, InferenceServerException)]
    assert last.status() == "StatusCode.UNAVAILABLE"


def accepted(url: str) -> float:
    """How many images the server has taken on so far."""
    names = ("trilemma_waiting_images ", "trilemma_active_images ", 'trilemma_images_total{method="ddim"}')
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(float(each.rpartition(" ")[2]) for each in lines if each.startswith(names))
