"""The router over services of a toy model, in this process: what a caller sees is what one service would answer."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from tritonclient.http import InferenceServerClient, InferInput

from cluster.fleet import Fleet
from cluster.router_metrics import RouterMetrics
from loadtests.server_process import free_port
from tests.cluster.conftest import METHODS, count, routing
from tests.conftest import write_bundle
from tests.deploy.conftest import holding, in_this_process, wait_until
from tests.service.conftest import Held

Routed = tuple[str, Fleet, RouterMetrics]


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The URLs of two."""
    folder = tmp_path_factory.mktemp("bundles")
    write_bundle(folder / "toy")
    with in_this_process(folder) as (one, _), in_this_process(folder) as (other, _):
        yield [one, other]


@pytest.fixture
def routed(services: list[str]) -> Iterator[Routed]:
    with routing(*services) as routed:
        yield routed


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[str, Held]]:
    """A service of at most 64 images, which waits in its first step until it is let go."""
    with holding(tmp_path, max_queued_images=64) as served:
        yield served


def generate(url: str, accept: str = "image/png", **fields: Any) -> httpx.Response:
    return httpx.post(f"{url}/generate", json={"method": "toy", **fields}, headers={"Accept": accept}, timeout=60)


@pytest.mark.parametrize("accept", ["image/png", "application/x-npy"])
def test_images_have_the_bytes_and_headers_that_a_service_gives(
    routed: Routed, services: list[str], accept: str
) -> None:
    for seed in range(4):
        ours, alone = (generate(url, accept, seed=seed, n=2) for url in (routed[0], services[0]))
        assert (ours.status_code, ours.content) == (200, alone.content)
        assert {*ours.headers} == {*alone.headers}
        assert ours.headers["ETag"] == alone.headers["ETag"]


@pytest.mark.parametrize(
    ("verb", "path", "body"),
    [
        ("GET", "/methods", None),
        ("GET", "/v2/models/toy/config", None),
        ("HEAD", "/methods", None),
        ("GET", "/", None),
        ("GET", "/nowhere?a=%2F", None),
        ("POST", "/generate", b'{"method": "toy", "steps": 0}'),
        ("POST", "/v1/images/generations", b"{"),
        ("POST", "/generate", b"x" * 70000),
    ],
)
def test_other_answers_and_refusals_are_a_service_s_own(
    routed: Routed, services: list[str], verb: str, path: str, body: bytes | None
) -> None:
    ours, alone = (
        httpx.request(verb, url + path, content=body, headers={"Content-Type": "application/json"})
        for url in (routed[0], services[0])
    )
    assert (ours.status_code, ours.content) == (alone.status_code, alone.content)
    assert ours.headers["Content-Length"] == alone.headers["Content-Length"]
    assert ours.headers["Content-Type"] == alone.headers["Content-Type"]


def test_a_known_etag_is_answered_without_a_body(routed: Routed) -> None:
    url = routed[0]
    first = generate(url, seed=1)
    again = httpx.post(
        f"{url}/generate",
        json={"method": "toy", "seed": 1},
        headers={"Accept": "image/png", "If-None-Match": first.headers["ETag"]},
    )
    assert (again.status_code, again.content) == (304, b"")


def test_a_repeated_request_is_answered_from_the_cache(routed: Routed) -> None:
    for seed in range(100, 110):
        assert [generate(routed[0], seed=seed).headers["Trilemma-Cache"] for _ in range(3)] == ["miss", "hit", "hit"]


def test_openai_s_and_triton_s_clients_are_served(routed: Routed) -> None:
    url = routed[0]
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    events = client.images.generate(model="toy", prompt="one", stream=True, partial_images=1)
    assert [event.type for event in events][-1] == "image_generation.completed"
    steps = InferInput("steps", [1], "INT32")
    steps.set_data_from_numpy(np.array([3], dtype=np.int32))
    with InferenceServerClient(url.removeprefix("http://")) as triton:
        assert triton.infer("toy", [steps]).as_numpy("images").shape == (1, 1, 4, 4)


def test_an_event_stream_is_passed_on_as_it_comes(held: tuple[str, Held]) -> None:
    service, runtime = held
    with routing(service) as (url, *_), httpx.Client(timeout=60) as client:
        body = {"method": "toy", "seed": 1, "steps": 3}
        with client.stream("POST", f"{url}/generate", json=body, headers={"Accept": "text/event-stream"}) as answer:
            lines = answer.iter_lines()
            assert next(lines) == "event: queued"  # before any step
            runtime.go.set()
            names = [line for line in lines if line.startswith("event")]
    assert names == ["event: step"] * 3 + ["event: completed"]


def test_a_refusal_is_asked_of_another_replica_before_the_caller_sees_it(
    held: tuple[str, Held], services: list[str]
) -> None:
    full, runtime = held
    with routing(full, services[0]) as (url, fleet, metrics), ThreadPoolExecutor() as pool:
        filling = pool.submit(generate, full, n=64, priority="high")
        assert runtime.entered.wait(60)
        later = {"priority": "low", "steps": 50}  # due after those 64, whatever a step was measured to take
        answers = [generate(url, seed=seed, **later) for seed in range(200, 208)]
        assert [answer.status_code for answer in answers] == [200] * 8
        assert count(metrics, "asked_elsewhere") > 0
        fleet.replicas["1"].away_until_s = float("inf")
        refused = generate(url, seed=300, **later)
        assert (refused.status_code, refused.json()["type"]) == (429, "urn:trilemma:overloaded")
        assert int(refused.headers["Retry-After"]) >= 1
        runtime.go.set()
        assert filling.result().status_code == 200


def test_a_replica_that_does_not_listen_costs_no_answer(services: list[str]) -> None:
    with routing(f"http://127.0.0.1:{free_port()}", services[0]) as (url, _, metrics):
        assert [generate(url, seed=seed).status_code for seed in range(20)] == [200] * 20
        assert count(metrics, "sent_again") > 0


def test_a_request_waits_for_a_replica_and_is_refused_where_none_comes(services: list[str]) -> None:
    with routing() as (url, fleet, _), ThreadPoolExecutor() as pool:
        refused = generate(url, deadline_ms=50)
        assert (refused.status_code, refused.json()["type"]) == (503, "urn:trilemma:unavailable")
        waiting = pool.submit(generate, url, seed=1)
        fleet.update({"0": {"url": services[0], "workers": 1, "methods": METHODS}})
        assert waiting.result().content == generate(services[0], seed=1).content


def test_a_request_is_cancelled_by_its_id_wherever_it_is(held: tuple[str, Held], services: list[str]) -> None:
    service, runtime = held
    with routing(service, services[0]) as (url, fleet, _), ThreadPoolExecutor() as pool:
        fleet.replicas["1"].away_until_s = float("inf")
        body, headers = {"method": "toy"}, {"X-Request-ID": "mine"}
        running = pool.submit(httpx.post, f"{url}/generate", json=body, headers=headers, timeout=60)
        assert runtime.entered.wait(60)
        assert httpx.delete(f"{url}/requests/mine").status_code == 204
        assert httpx.delete(f"{url}/requests/other").status_code == 404
        assert running.result().status_code == 409


def test_a_caller_that_leaves_ends_the_work(held: tuple[str, Held]) -> None:
    service, runtime = held
    with routing(service) as (url, fleet, _):
        with httpx.Client() as client, pytest.raises(httpx.ReadTimeout):
            client.post(f"{url}/generate", json={"method": "toy"}, timeout=httpx.Timeout(60, read=1))
        wait_until(lambda: not fleet.replicas["0"].under_way)
        runtime.go.set()
        cancelled = 'trilemma_request_seconds_count{method="toy",status="409"} 1.0'
        assert wait_until(lambda: cancelled in httpx.get(f"{service}/metrics").text)


def test_a_reload_reaches_every_replica_and_probes_are_the_router_s(routed: Routed, services: list[str]) -> None:
    url = routed[0]
    assert httpx.post(f"{url}/admin/reload").json()["methods"] == ["toy"]
    assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}
    assert "trilemma_router_sent_again_total" in httpx.get(f"{url}/metrics").text
    targets = httpx.get(f"{url}/cluster/replicas").json()[0]["targets"]
    assert targets == [service.removeprefix("http://") for service in services]
