"""Bad requests and failing models, through the whole application: each a problem that says what is wrong."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from models.ddim.plan import SOLVERS
from service.requests.request import GenerateRequest
from tests.conftest import ToyRuntime, write_bundle
from tests.service.conftest import generate, serve


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
        ({"solver": "euler"}, "solver", list(SOLVERS)),
        ({"guidance": 20.5}, "guidance", {"type": "number", "minimum": 0, "maximum": 20}),
        ({"guidance": 2.5, "class_label": 1}, "guidance", {"min": 1, "max": 1, "models": []}),
        (
            {"step": 4},
            "step",
            [
                "class_label",
                "dataset",
                "deadline_ms",
                "eta",
                "format",
                "guidance",
                "image",
                "index",
                "mask",
                "max_distance",
                "max_ms",
                "method",
                "n",
                "noise",
                "preview_every",
                "priority",
                "seed",
                "settings",
                "solver",
                "steps",
                "strength",
                "to_noise",
                "to_seed",
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

    monkeypatch.setattr("service.requests.encoding.encode", broken)
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
