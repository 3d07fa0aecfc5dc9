"""The HTTP surface over a toy model, through the whole application."""

import base64
import hashlib
import io
import json
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from openapi_spec_validator import validate
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from service.app import create_app
from service.bundle import Bundle
from service.core import Array, Inputs
from service.schemas import GenerateRequest
from service.settings import Settings
from tests.conftest import REPOSITORY, ToyRuntime, on_engine, write_bundle


@pytest.fixture
def runtime() -> ToyRuntime:
    return ToyRuntime()


@pytest.fixture
def client(tmp_path: Path, runtime: ToyRuntime) -> Iterator[TestClient]:
    write_bundle(tmp_path / "bundles" / "toy")
    with serve(tmp_path / "bundles", runtime) as client:
        yield client


@contextmanager
def serve(bundles: Path, runtime: ToyRuntime, **changes: Any) -> Iterator[TestClient]:
    """A client of an app that has loaded its bundles."""
    app = create_app(Settings(bundles=bundles, max_batch=4, **changes), open_runtime=lambda bundle, threads: runtime)
    with TestClient(app, raise_server_exceptions=False) as client:
        while client.get("/readyz").json()["status"] == "starting":
            time.sleep(0.001)
        yield client


def generate(client: TestClient, accept: str = "*/*", **request: Any) -> Any:
    return client.post("/generate", json={"method": "toy", "seed": 1, **request}, headers={"Accept": accept})


def test_a_json_answer_has_the_images_and_all_that_made_them(client: TestClient) -> None:
    answer = generate(client, steps=3, n=2, class_label="one", format="png").json()
    assert (answer["method"], answer["steps"], answer["solver"], answer["seed"]) == ("toy", 3, "ddim", 1)
    assert (answer["settings"], answer["class_label"]) == ({"eta": 0.0}, "one")
    assert [image["index"] for image in answer["images"]] == [0, 1]
    for image in answer["images"]:
        content = base64.b64decode(image["data"])
        assert hashlib.sha256(content).hexdigest() == image["sha256"]
        assert Image.open(io.BytesIO(content)).size == (4, 4)
    timing = answer["timing"]
    assert 0 <= timing["queue_ms"] <= timing["total_ms"]
    assert timing["queue_ms"] + timing["compute_ms"] <= timing["total_ms"]
    assert answer["model"]["digest"] == client.get("/methods").json()[0]["model"]["digest"]


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("image/png", "image/png"),
        ("image/jpeg", "image/jpeg"),
        ("image/webp", "image/webp"),
        ("application/x-npy", "application/x-npy"),
        ("", "application/json"),
        ("image/*", "image/png"),
        ("IMAGE/WebP", "image/webp"),
        ("image/png;q=0, image/*", "image/jpeg"),
        ("text/html, image/png;q=0.5, application/json;q=0.1", "image/png"),
        ("image/png;q=0.2, application/x-npy;q=0.9", "application/x-npy"),
    ],
)
def test_the_answer_is_what_accept_asks_for(client: TestClient, accept: str, content_type: str) -> None:
    answer = generate(client, accept)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == content_type
    assert answer.headers["vary"] == "Accept"


def test_every_form_shows_the_same_images(client: TestClient) -> None:
    array = np.load(io.BytesIO(generate(client, "application/x-npy", n=3).content), allow_pickle=False)
    assert array.shape == (3, 1, 4, 4)
    expected = ((array[:, 0].clip(-1, 1) + 1) * 127.5).round()
    singles = [base64.b64decode(image["data"]) for image in generate(client, n=3).json()["images"]]
    picture = np.asarray(Image.open(io.BytesIO(generate(client, "image/png", n=3).content)))
    for i, (single, place) in enumerate(zip(singles, ((0, 0), (0, 4), (4, 0)), strict=True)):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(single))), expected[i])
        np.testing.assert_array_equal(picture[place[0] :, place[1] :][:4, :4], expected[i])


def test_the_same_request_gives_the_same_bytes_and_another_seed_others(client: TestClient) -> None:
    first, again, other = (generate(client, "image/png", seed=seed).content for seed in (2**64 - 1, 2**64 - 1, 0))
    assert first == again
    assert first != other


def test_a_seed_is_drawn_and_returned_and_gives_the_same_again(client: TestClient) -> None:
    drawn = client.post("/generate", json={"method": "toy"})
    seed = drawn.json()["seed"]
    assert drawn.headers["trilemma-seed"] == str(seed)
    again = generate(client, seed=seed).json()
    assert again["images"] == drawn.json()["images"]


def test_image_i_does_not_depend_on_how_many_are_asked_for(client: TestClient) -> None:
    few, many = generate(client, n=2).json(), generate(client, n=9).json()
    assert few["images"] == many["images"][:2]


def test_every_answer_carries_its_timing(client: TestClient) -> None:
    header = generate(client, "image/png").headers["server-timing"]
    assert [part.split(";")[0].strip() for part in header.split(",")] == ["queue", "compute", "encode", "total"]


@pytest.mark.parametrize("accept", ["application/json", "image/png"])
def test_a_known_etag_is_answered_without_computing(client: TestClient, runtime: ToyRuntime, accept: str) -> None:
    tag = generate(client, accept).headers["etag"]
    steps = len(runtime.batches)
    headers = {"Accept": accept, "If-None-Match": f'"other", {tag}'}
    answer = client.post("/generate", json={"method": "toy", "seed": 1}, headers=headers)
    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
    assert len(runtime.batches) == steps


def test_etags_differ_with_all_that_changes_the_answer(client: TestClient) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"seed": 2},
        {"steps": 6},
        {"n": 2},
        {"class_label": 0},
        {"eta": 0.5},
        {"solver": "dpmpp_2m"},
        {"format": "webp"},
        {"accept": "image/png"},
        {"accept": "image/webp"},
    ]
    assert len({generate(client, **change).headers["etag"] for change in changes}) == len(changes)
    assert generate(client, steps=5, n=1, eta=0.0).headers["etag"] == generate(client).headers["etag"]  # the defaults


@pytest.mark.parametrize(
    ("request_", "field", "allowed"),
    [
        ({"steps": 0}, "steps", {"type": "integer", "minimum": 1}),
        ({"steps": "4"}, "steps", {"type": "integer", "minimum": 1}),
        ({"steps": 4.0}, "steps", {"type": "integer", "minimum": 1}),
        ({"steps": 1001}, "steps", {"min": 1, "max": 1000}),
        ({"seed": -1}, "seed", {"type": "integer", "minimum": 0, "maximum": 2**64 - 1}),
        ({"seed": 2**64}, "seed", {"type": "integer", "minimum": 0, "maximum": 2**64 - 1}),
        ({"n": 65}, "n", {"type": "integer", "minimum": 1, "maximum": 64}),
        ({"n": True}, "n", {"type": "integer", "minimum": 1, "maximum": 64}),
        ({"eta": 1.5}, "eta", {"type": "number", "minimum": 0, "maximum": 1}),
        ({"format": "gif"}, "format", {"type": "string", "enum": ["png", "jpeg", "webp", "npy"]}),
        ({"class_label": 1.5}, "class_label", [{"type": "integer"}, {"type": "string"}]),
        ({"class_label": True}, "class_label", [{"type": "integer"}, {"type": "string"}]),
        ({"class_label": 3}, "class_label", {"min": 0, "max": 2, "names": ["zero", "one", "2"]}),
        ({"solver": "euler"}, "solver", ["ddim", "dpmpp_2m"]),
        (
            {"step": 4},
            "step",
            [
                "class_label",
                "deadline_ms",
                "eta",
                "format",
                "max_distance",
                "max_ms",
                "method",
                "n",
                "preview_every",
                "priority",
                "seed",
                "solver",
                "steps",
            ],
        ),
    ],
)
def test_a_field_out_of_range_is_named_with_its_range(
    client: TestClient, request_: dict[str, Any], field: str, allowed: Any
) -> None:
    answer = generate(client, **request_)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == 422
    assert [(error["field"], error["allowed"]) for error in problem["errors"]] == [(field, allowed)]
    assert field in problem["detail"]


def test_every_bad_field_is_named_at_once(client: TestClient) -> None:
    problem = generate(client, steps=0, n=0, eta=-1).json()
    assert {error["field"] for error in problem["errors"]} == {"steps", "n", "eta"}


@pytest.mark.parametrize(
    ("request_", "status", "kind"),
    [
        ({"json": {"method": "nope"}}, 404, "urn:trilemma:unknown-method"),
        ({"json": {}}, 422, "urn:trilemma:invalid-request"),
        ({"json": []}, 422, "urn:trilemma:invalid-request"),
        ({"content": "{", "headers": {"content-type": "application/json"}}, 400, "urn:trilemma:malformed-body"),
        ({"content": b"\xff{}", "headers": {"content-type": "application/json"}}, 400, "about:blank"),
        ({"content": "method=toy"}, 415, "urn:trilemma:not-json"),
        ({"content": '{"method":"toy"}', "headers": {"content-type": "text/plain"}}, 415, "urn:trilemma:not-json"),
        ({"json": {"method": "toy"}, "headers": {"accept": "text/html"}}, 406, "urn:trilemma:not-acceptable"),
        ({"json": {"method": "toy"}, "headers": {"accept": "%%%"}}, 406, "urn:trilemma:not-acceptable"),
    ],
)
def test_a_request_that_cannot_be_served_says_why(
    client: TestClient, request_: dict[str, Any], status: int, kind: str
) -> None:
    answer = client.post("/generate", **request_)
    assert (answer.status_code, answer.json()["type"]) == (status, kind)
    assert answer.headers["content-type"] == "application/problem+json"


def test_an_unknown_method_is_told_the_known_ones_and_makes_no_label(client: TestClient) -> None:
    problem = client.post("/generate", json={"method": "nope"}).json()
    assert problem["known"] == ["toy"]
    assert "nope" not in client.get("/metrics").text


def test_framework_errors_are_problems_too(client: TestClient) -> None:
    for answer, status in ((client.get("/nowhere"), 404), (client.get("/generate"), 405)):
        assert (answer.status_code, answer.json()["status"]) == (status, status)
        assert answer.headers["content-type"] == "application/problem+json"
    assert client.get("/generate").headers["allow"] == "POST"


def test_an_error_of_our_own_is_a_500_that_names_its_request_and_hides_the_rest(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> bytes:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr("service.answer.encode", broken)
    answer = client.post("/generate", json={"method": "toy"}, headers={"X-Request-ID": "abc-1"})
    assert (answer.status_code, answer.json()["status"]) == (500, 500)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == "abc-1"
    assert "secret" not in answer.text


def test_a_failing_network_is_a_500_that_says_so_and_the_next_request_is_served(
    client: TestClient, runtime: ToyRuntime
) -> None:
    runtime.fail_on = {0}
    answer = generate(client, class_label=0)
    assert (answer.status_code, answer.json()["type"]) == (500, "urn:trilemma:step-failed")
    assert generate(client, class_label=1).status_code == 200


def test_a_request_id_is_kept_where_it_is_one_and_made_where_not(client: TestClient) -> None:
    kept = client.post("/generate", json={"method": "toy"}, headers={"X-Request-ID": "abc-1"})
    assert kept.headers["x-request-id"] == kept.json()["id"] == "abc-1"
    made = client.post("/generate", json={"method": "toy"}, headers={"X-Request-ID": "a b\tc"})
    assert made.headers["x-request-id"] == made.json()["id"] != "a b\tc"


def test_methods_lists_what_a_request_may_say(client: TestClient) -> None:
    (method,) = client.get("/methods").json()
    assert method["method"] == "toy"
    assert method["image_shape"] == [1, 4, 4]
    assert method["classes"] == ["zero", "one", "2"]
    assert method["steps"] == {"min": 1, "max": 1000, "default": 5}
    assert [solver["name"] for solver in method["solvers"]] == ["ddim", "dpmpp_2m"]
    assert method["solvers"][0]["settings"] == {"eta": {"min": 0, "max": 1, "default": 0}}


def test_metrics_add_up(client: TestClient) -> None:
    generate(client, steps=3, n=2)
    generate(client, steps=2)
    generate(client, steps=0)
    families = {family.name: family for family in text_string_to_metric_families(client.get("/metrics").text)}
    samples = {(s.name, *sorted(s.labels.items())): s.value for f in families.values() for s in f.samples}
    toy = ("method", "toy")
    assert samples["trilemma_images_total", toy] == 3
    assert samples["trilemma_steps_total", toy] == 8
    assert samples["trilemma_request_seconds_count", toy, ("status", "200")] == 2
    assert samples["trilemma_queue_wait_seconds_count", toy] == 2
    assert samples["trilemma_rejections_total", ("reason", "invalid-request")] == 1
    for name, family in families.items():
        if name.startswith("trilemma_"):
            assert family.documentation
            assert family.type != "counter" or all(s.name.endswith(("_total", "_created")) for s in family.samples)


def test_the_openapi_document_is_valid_and_has_the_answers(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    validate(document)
    answers = document["paths"]["/generate"]["post"]["responses"]
    assert set(answers["200"]["content"]) == {
        "application/json",
        "image/png",
        "image/jpeg",
        "image/webp",
        "application/x-npy",
        "text/event-stream",
    }
    assert "application/problem+json" in answers["4XX"]["content"]
    seed = document["components"]["schemas"]["GenerateRequest"]["properties"]["seed"]["anyOf"][0]
    assert json.dumps(seed["maximum"]) == str(2**64 - 1)  # to the last digit
    assert (
        document["info"]["version"] == tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    )


class Held(ToyRuntime):
    """Past its warm-up, waits in each step until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.go = threading.Event(), threading.Event()

    def step(self, inputs: Inputs) -> tuple[Array, Array]:
        if on_engine():
            self.entered.set()
            assert self.go.wait(60)
        return super().step(inputs)


def test_beyond_the_queue_it_answers_429_and_says_when_to_come_back(tmp_path: Path) -> None:
    write_bundle(tmp_path / "toy")
    runtime = Held()
    with serve(tmp_path, runtime, max_queued_images=64) as client:
        first: list[Any] = []
        asking = threading.Thread(target=lambda: first.append(generate(client, n=60)))
        asking.start()
        assert runtime.entered.wait(60)
        refused = generate(client, n=5)
        assert (refused.status_code, refused.json()["type"]) == (429, "urn:trilemma:overloaded")
        assert refused.headers["content-type"] == "application/problem+json"
        assert int(refused.headers["retry-after"]) >= 1
        assert 'trilemma_rejections_total{reason="overloaded"} 1.0' in client.get("/metrics").text
        runtime.go.set()
        asking.join()
        assert first[0].status_code == 200
        assert generate(client, n=5).status_code == 200


def test_an_engine_that_stopped_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bundle(tmp_path / "toy")
    with serve(tmp_path, ToyRuntime()) as client:
        app: Any = client.app
        monkeypatch.setattr(app.state.service.engine.scheduler, "next_batch", lambda now: None)
        assert generate(client).json()["type"] == "urn:trilemma:step-failed"
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (503, "engine stopped")
        assert generate(client).status_code == 503


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from([*GenerateRequest.model_fields]) | st.text()


@pytest.fixture(scope="module")
def lasting_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("bundles")
    write_bundle(folder / "toy")
    with serve(folder, ToyRuntime()) as client:
        yield client


@settings(deadline=None, derandomize=True)
@given(
    body=anything | st.dictionaries(names, anything).map(lambda fields: {"steps": 1, "method": "toy", **fields}),
    accept=st.sampled_from(["*/*", "image/png"]) | st.text(st.characters(codec="ascii", exclude_categories=["C"])),
)
def test_no_request_makes_an_error_of_the_servers(lasting_client: TestClient, body: Any, accept: str) -> None:
    headers = {"content-type": "application/json", "accept": accept}
    answer = lasting_client.post("/generate", content=json.dumps(body), headers=headers)
    assert answer.status_code in {200, 404, 406, 422}
    if answer.status_code != 200:
        problem = answer.json()
        assert answer.headers["content-type"] == "application/problem+json"
        assert problem["status"] == answer.status_code
        assert problem["detail"]


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


class NotANumber(ToyRuntime):
    def step(self, inputs: Inputs) -> tuple[Array, Array]:
        x, x0 = super().step(inputs)
        return x * np.float32("nan"), x0


class LosesARow(ToyRuntime):
    def step(self, inputs: Inputs) -> tuple[Array, Array]:
        x, x0 = super().step(inputs)
        return x[1:], x0[1:]


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
    let_go = threading.Event()

    def slow(bundle: Bundle, threads: int) -> ToyRuntime:
        assert let_go.wait(60)
        return runtime

    with TestClient(create_app(Settings(bundles=tmp_path), open_runtime=slow)) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        assert (client.get("/readyz").status_code, client.get("/readyz").json()["status"]) == (503, "starting")
        answer = generate(client)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        let_go.set()


# --- method auto ---------------------------------------------------------------------------------------------------


def test_auto_answers_as_the_method_it_chose_and_says_why(tmp_path: Path) -> None:
    point = {"steps": 3, "solver": "ddim", "settings": {"eta": 1.0}, "alone_ms": 9.0, "frechet_distance": 2.5}
    write_bundle(tmp_path / "toy", measured={"points": [point]})
    with serve(tmp_path, ToyRuntime()) as client:
        chosen = generate(client, method="auto", max_ms=10, n=2)
        asked = generate(client, steps=3, solver="ddim", eta=1.0, n=2)
        picture = generate(client, "image/png", method="auto", max_distance=3)
    answer = chosen.json()
    assert (answer["method"], answer["steps"], answer["settings"]) == ("toy", 3, {"eta": 1.0})
    assert [image["sha256"] for image in answer["images"]] == [image["sha256"] for image in asked.json()["images"]]
    assert chosen.headers["etag"] == asked.headers["etag"]
    assert answer["chosen"] == (
        "toy, 3 steps, solver ddim, eta = 1: distance 2.5, 9 ms; the best of 1 measured points with max_ms = 10"
    )
    assert asked.json()["chosen"] is None
    assert picture.headers["trilemma-chosen"].startswith("toy, 3 steps")
