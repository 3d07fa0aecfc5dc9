"""What one request may cost, counted and not timed: errors, schemas, bytes of an answer, and threads."""

import base64
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio.to_thread
import numpy as np
import orjson
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from service.errors import MAX_ERRORS
from service.http import oip_tensors, openapi, responses, routes
from service.requests import validation
from tests.conftest import ToyRuntime, write_bundle
from tests.service.conftest import serve

LONG = "x" * 60_000
MANY = 5_000
JSON = {"content-type": "application/json"}
INFER = "/v2/models/toy/infer"
PATHS = ("/generate", "/likelihood", "/v1/images/generations", INFER, "/v2/repository/index")
MOST_BYTES = 20_000  # of a refusal


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("served")
    write_bundle(folder / "bundles" / "toy")
    with serve(folder / "bundles", ToyRuntime()) as client:
        yield client


def tensor(**fields: Any) -> str:
    return json.dumps({"inputs": [{"name": "n", "shape": [1], "datatype": "INT32", "data": [1], **fields}]})


BODIES = {
    "many unknown keys": json.dumps({f"k{number}": 1 for number in range(MANY)}),
    "one long key": json.dumps({LONG: 1}),
    "a key twice, many times": "{" + ",".join('"seed": -1' for _ in range(MANY)) + "}",
    "deep lists": "[" * 60_000,
    "deep objects": '{"a":' * 12_000,
    "an integer of 60 KB": '{"method": "toy", "seed": ' + "9" * 60_000 + "}",
    "an integer of 4000 digits": '{"method": "toy", "eta": ' + "9" * 4000 + "}",
    "a number beyond any float": '{"method": "toy", "eta": 1e999}',
    "a number that is none": '{"method": "toy", "eta": NaN}',
    "half a character": '{"method": "toy", "class_label": "\\ud800", "\\udfff": 1}',
    "a zero character": '{"method": "\\u0000", "model": "\\u0000", "prompt": "\\u0000"}',
    "a long method": json.dumps({"method": LONG}),
    "a long model": json.dumps({"model": LONG, "prompt": ""}),
    "a long class": json.dumps({"method": "toy", "class_label": LONG}),
    "a long prompt": json.dumps({"model": "toy", "prompt": LONG}),
    "a long size": json.dumps({"model": "toy", "prompt": "one", "size": LONG}),
    "a long solver": json.dumps({"method": "toy", "solver": LONG}),
    "a long setting": json.dumps({"method": "toy", "settings": {LONG: 1}}),
    "many settings": json.dumps({"method": "toy", "settings": {f"k{number}": "" for number in range(MANY)}}),
    "a long image": json.dumps({"method": "toy", "image": LONG}),
    "many images": json.dumps({"method": "toy", "image": [""] * 15_000}),
    "many images of no kind": json.dumps({"method": "toy", "image": [[]] * 15_000}),
    "many classes": json.dumps({"method": "toy", "image": LONG, "class_label": [[]] * 10}),
    "long terms": json.dumps({"method": "toy", "image": "", "terms": LONG}),
    "a long id": json.dumps({"id": LONG}),
    "a long tensor's name": tensor(name=LONG),
    "a long datatype": tensor(datatype=LONG),
    "a long shape": tensor(shape=[1] * 20_000),
    "much data": tensor(data=[1] * 20_000),
    "much data of no kind": tensor(data=[[]] * 15_000),
    "many inputs of no kind": json.dumps({"inputs": [[]] * 15_000}),
    "many outputs of no kind": json.dumps({"outputs": [[]] * 15_000}),
    "a float's digits": '{"inputs": [{"name": "eta", "shape": [1], "datatype": "FP32", "data": [' + "9" * 4000 + "]}]}",
    "a float beyond float32": tensor(name="eta", datatype="FP32", data=[1e39]),
    "text for a float": tensor(name="eta", datatype="FP32", data=["x"]),
    "not UTF-8": b"\xff" * 100,
    "nothing": "",
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_no_body_makes_a_long_answer_or_one_that_is_the_servers_fault(
    client: TestClient, path: str, body: str | bytes
) -> None:
    answer = client.post(path, content=body, headers=JSON)
    assert answer.status_code < 500
    assert answer.is_success or len(answer.content) <= MOST_BYTES
    assert answer.is_success or len(answer.json().get("errors", [])) <= MAX_ERRORS


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"method": "many", "class_label": "x"}),
        ("/generate", {"method": "many", "class_label": 10_000}),
        ("/v1/images/generations", {"model": "many", "prompt": "x"}),
        (
            "/v2/models/many/infer",
            {"inputs": [{"name": "class_label", "shape": [1], "datatype": "INT32", "data": [-1]}]},
        ),
    ],
)
def test_a_wrong_class_of_many_has_a_short_answer(tmp_path: Path, path: str, body: dict[str, Any]) -> None:
    write_bundle(tmp_path / "many", name="many", classes=[f"{number} {'x' * 180}" for number in range(4000)])
    with serve(tmp_path, ToyRuntime()) as client:
        answer = client.post(path, json=body)
        assert len(client.get("/methods").json()[0]["classes"]) == 4000
    assert answer.status_code in (400, 422)
    assert "3999" in answer.text
    assert len(answer.content) <= MOST_BYTES


@pytest.mark.parametrize("header", ["9" * 5000, "-1", "1e3", "0x2", "", " ", "99999999999"])
def test_no_length_of_the_json_part_is_the_servers_fault(client: TestClient, header: str) -> None:
    answer = client.post(INFER, content="{}", headers={**JSON, "Inference-Header-Content-Length": header})
    assert answer.status_code == 400


@pytest.mark.parametrize("path", ["/requests/{}", "/v2/models/{}", "/v2/models/toy/versions/{}", "/v1/models/{}"])
def test_a_long_name_in_a_path_is_not_said_back_whole(client: TestClient, path: str) -> None:
    method = "DELETE" if "requests" in path else "GET"
    answer = client.request(method, path.format("x" * 10_000))
    assert answer.status_code == 404
    assert len(answer.content) < 1000


def test_a_long_accept_is_not_said_back_whole(client: TestClient) -> None:
    answer = client.post("/generate", json={"method": "toy"}, headers={"accept": "a/b," * 3000})
    assert answer.status_code == 406
    assert len(answer.content) < 1000


def test_a_models_schema_is_built_once_however_much_is_wrong(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    validation._properties.cache_clear()
    built: list[type[BaseModel]] = []
    build = BaseModel.model_json_schema.__func__  # type: ignore[attr-defined]

    def noting(model: type[BaseModel], *arguments: Any, **options: Any) -> Any:
        built.append(model)
        return build(model, *arguments, **options)

    monkeypatch.setattr(BaseModel, "model_json_schema", classmethod(noting))
    for _ in range(3):
        for path in PATHS:
            client.post(path, content=BODIES["many unknown keys"], headers=JSON)
    assert len(built) == len(set(built)) > 0


def test_the_description_is_not_made_on_the_event_loop() -> None:
    app, threads = FastAPI(openapi_url=None), []
    app.include_router(routes.router)
    describe = app.openapi

    def noting() -> dict[str, Any]:
        threads.append(threading.get_ident())
        return describe()

    app.openapi = noting  # type: ignore[method-assign]
    openapi.install(app)
    with TestClient(app) as client:
        assert client.portal is not None
        loop_thread = client.portal.call(threading.get_ident)
        assert client.get("/openapi.json").status_code == 200
    assert threads
    assert loop_thread not in threads


def test_nothing_on_the_way_to_a_handler_waits_for_a_thread(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[Any] = []
    run_sync = anyio.to_thread.run_sync

    async def noting(call: Any, *arguments: Any, **options: Any) -> Any:
        waited.append(call)
        return await run_sync(call, *arguments, **options)

    monkeypatch.setattr(anyio.to_thread, "run_sync", noting)
    get = [
        "/healthz",
        "/readyz",
        "/metrics",
        "/load",
        "/methods",
        "/v1/models",
        "/v1/models/toy",
        "/v2",
        "/v2/health/live",
    ]
    get += ["/v2/health/ready", *(f"/v2/models/toy{version}/ready" for version in ("", "/versions/1"))]
    assert {client.get(path).status_code for path in get} == {200}
    prompt = {"model": "toy", "prompt": "one"}
    posts = {"/generate": {"method": "toy"}, "/v1/images/generations": prompt, INFER: {}, PATHS[3]: {}}
    assert {client.post(path, json=body).status_code for path, body in posts.items()} == {200}
    assert client.delete("/requests/none").status_code == 404
    assert waited == []


NUMBERS = st.one_of(
    st.integers(),
    st.integers(min_value=0).map(lambda digits: 10 ** (digits % 5000)),
    st.floats(),
    st.sampled_from([1e308, -1e308, 5e-324, 2**31, 2**63, 2**64, -(2**63), -0.0]),
)
FIELDS = ("steps", "seed", "n", "eta", "max_ms", "max_distance", "deadline_ms", "preview_every", "class_label")


@given(st.sampled_from(["toy", "auto"]), st.dictionaries(st.sampled_from(FIELDS), NUMBERS, max_size=3))
def test_any_number_ends_in_an_answer_that_is_not_the_servers_fault(
    client: TestClient, method: str, fields: dict[str, Any]
) -> None:
    limits = {"n": 4, "steps": 20}
    body = {"method": method} | {
        name: value % limits[name] if name in limits and isinstance(value, int) and 0 < value <= 1000 else value
        for name, value in fields.items()
    }
    content = json.dumps(body) if all(abs(value) < 10**4000 for value in fields.values()) else "{}"
    assert client.post("/generate", content=content, headers=JSON).status_code < 500


ANSWERS = {
    "/generate": {"method": "large", "n": 8, "format": "npy", "steps": 1},
    "/v1/images/generations": {"model": "large", "prompt": "one", "n": 8, "size": "auto"},
    "/v2/models/large/infer": {"inputs": [{"name": "n", "shape": [1], "datatype": "INT32", "data": [8]}]},
}


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
@pytest.mark.parametrize("path", ANSWERS)
def test_a_long_answer_is_not_written_on_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, accept: str
) -> None:
    monkeypatch.setattr(responses, "AT_ONCE", 1000)
    monkeypatch.setattr(oip_tensors, "PIECE", 1000)
    shape = (3, 20, 20)
    write_bundle(tmp_path / "large", name="large", shape=shape, state_shape=shape)
    loop_threads, writers = set(), set()
    encode = base64.b64encode
    dumps = orjson.dumps

    def noting(content: Any, option: int | None = None) -> bytes:
        written = dumps(content, option=option)
        if isinstance(content, np.ndarray):
            assert len(content) <= oip_tensors.PIECE
            writers.add(threading.get_ident())
        return written

    def encoding(content: bytes) -> bytes:
        writers.add(threading.get_ident())
        return encode(content)

    async def on_the_loop() -> None:
        loop_threads.add(threading.get_ident())

    monkeypatch.setattr(base64, "b64encode", encoding)
    monkeypatch.setattr(orjson, "dumps", noting)
    with serve(tmp_path, ToyRuntime()) as client:
        assert client.portal is not None
        client.portal.call(on_the_loop)
        answer = client.post(path, json=ANSWERS[path], headers={"accept": accept})
    assert answer.status_code == 200
    assert writers
    assert not writers & loop_threads


def test_an_answer_in_pieces_is_the_answer(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(**parameters: Any) -> bytes:
        body = {"id": "x", "parameters": parameters, "inputs": json.loads(tensor(data=[5]))["inputs"]}
        body["inputs"].append({"name": "seed", "shape": [1], "datatype": "UINT64", "data": [7]})
        response = client.post(INFER, json=body)
        assert int(response.headers["content-length"]) == len(response.content)
        return response.content

    whole = answer()
    monkeypatch.setattr(oip_tensors, "PIECE", 7)  # numbers of 80
    assert answer() == whole
    binary = np.frombuffer(answer(binary_data_output=True)[-5 * 16 * 4 :], "<f4")
    assert np.array(json.loads(whole)["outputs"][0]["data"], "<f4").tobytes() == binary.tobytes()
