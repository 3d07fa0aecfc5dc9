"""`GET /load` and its gauges, over HTTP."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from service.app import create_app
from service.settings import Settings
from service.telemetry.load_report import GAUGES
from tests.conftest import ToyRuntime, write_bundle
from tests.deploy.conftest import in_this_process
from tests.service.conftest import Held, generate, serve


def gauges(client: Any) -> dict[str, dict[str, float]]:
    """Those of the load, by method and name."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    samples = [sample for family in families for sample in family.samples]
    methods = {sample.labels["method"] for sample in samples if sample.name in GAUGES}
    return {
        method: {s.name: s.value for s in samples if s.name in GAUGES and s.labels["method"] == method}
        for method in methods
    }


def test_an_idle_service_makes_nobody_wait(client: TestClient) -> None:
    load = client.get("/load").json()
    assert (load["utilization"], load["promised_utilization"]) == (0, 0)
    toy = load["methods"]["toy"]
    assert (toy["steps"], toy["wait_s"], toy["promised_utilization"]) == (5, 0, 0)
    assert toy["end_s"] > 0
    assert toy["spare_steps_per_s"] > 0
    generate(client, steps=3)
    assert client.get("/load").json()["methods"]["toy"]["wait_s"] == 0


def test_more_steps_end_later(client: TestClient) -> None:
    ends = [client.get("/load", params={"steps": n}).json()["methods"]["toy"]["end_s"] for n in (1, 10, 1000)]
    assert ends == pytest.approx([ends[0], 10 * ends[0], 1000 * ends[0]])


@pytest.mark.parametrize("steps", ["0", "-1", "1000001", "many", "1e400"])
def test_a_wrong_number_of_steps_is_named_with_its_range(client: TestClient, steps: str) -> None:
    answer = client.get("/load", params={"steps": steps})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["field"] == "steps"
    assert error["allowed"] == {"type": "integer", "minimum": 1, "maximum": 1_000_000}


def test_a_question_that_is_not_known_is_refused(client: TestClient) -> None:
    assert client.get("/load?n=2").json()["errors"][0]["allowed"] == ["steps"]


def test_the_gauges_say_what_the_endpoint_says(client: TestClient) -> None:
    toy = client.get("/load").json()["methods"]["toy"]
    names = ("wait_s", "spare_steps_per_s", "promised_utilization")
    assert gauges(client) == {"toy": dict(zip(GAUGES, (toy[name] for name in names), strict=True))}


def test_a_busy_service_says_so_until_it_is_done(tmp_path: Path) -> None:
    write_bundle(tmp_path / "toy")
    runtime = Held()
    with (
        in_this_process(tmp_path, runtime, max_batch=4, workers=1) as (url, _),
        httpx.Client(base_url=url) as client,
        httpx.stream(
            "POST",
            f"{url}/generate",
            json={"method": "toy", "n": 64, "steps": 500, "deadline_ms": 86_400_000},
            headers={"Accept": "text/event-stream"},
        ),
    ):
        assert runtime.entered.wait(60)
        load = client.get("/load").json()
        toy = load["methods"]["toy"]
        assert load["utilization"] == 1
        assert toy["wait_s"] > 0
        assert toy["spare_steps_per_s"] == 0
        assert 0 < toy["promised_utilization"] == load["promised_utilization"]
        assert gauges(client)["toy"]["trilemma_predicted_wait_seconds"] > 0
        runtime.go.set()


def test_a_model_that_is_out_of_service_is_not_offered(client: TestClient, runtime: ToyRuntime) -> None:
    runtime.fail_on = {3}
    for seed in range(5):
        assert generate(client, seed=seed, steps=1).status_code == 500
    assert client.get("/load").json()["methods"] == {}
    assert gauges(client) == {}


def test_a_service_that_has_not_started_is_no_place_to_send_a_request_to(tmp_path: Path) -> None:
    app = create_app(Settings(bundles=tmp_path))
    client = TestClient(app)  # its lifespan does not begin
    assert client.get("/load").status_code == 503
    assert gauges(client) == {}
    with serve(tmp_path, ToyRuntime()) as started:
        assert started.get("/load").json()["methods"] == {}
