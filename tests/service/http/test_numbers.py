"""Any number that JSON, a tensor or a header can carry ends in an answer or a refusal, never in an error of ours."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from service.http.openai import ImageRequest
from service.requests.inference import DTYPES, INPUTS
from service.requests.request import GenerateRequest
from tests.conftest import ToyRuntime, write_bundle
from tests.service.conftest import serve

EDGES = [0, 1, 64, 65, 1000, 1001, *(2**bits + more for bits in (31, 32, 53, 63, 64) for more in (-1, 0, 1))]
WORDS = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e400",
    "-1e400",
    "1e999",
    "1e38",
    "3.5e38",
    "1e39",
    "1e308",
    "5e-324",
    "1e-400",
]
WORDS += [
    "-0",
    "-0.0",
    "1.0",
    "1.5",
    "1e2",
    "true",
    "false",
    "null",
    '"5"',
    '"1e400"',
    "[5]",
    "[]",
    "{}",
    "01",
    "+1",
    ".5",
]
LONG = ["9" * digits for digits in (400, 4300, 4301, 60_000)]
POINT = {"solver": "ddim", "steps": 2, "settings": {"eta": 0.0}, "frechet_distance": 1.0, "alone_ms": 1.0}
DATATYPES = ["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64"]
DATATYPES += ["BF16", "BYTES", "", "int32"]

TOKENS = [*map(str, EDGES), *(f"-{edge}" for edge in EDGES), *WORDS, *LONG, *(f"-{each}" for each in LONG)]
tokens = st.sampled_from(TOKENS) | st.integers().map(str) | st.floats().map(json.dumps)
FIELDS = [
    *(("/generate", {"method": '"toy"', "steps": "2", "seed": "1"}, name) for name in GenerateRequest.model_fields),
    *(("/generate", {"method": '"auto"', "seed": "1"}, name) for name in ("max_ms", "max_distance", "deadline_ms")),
    *(
        ("/v1/images/generations", {"model": '"toy"', "prompt": '"one"', "num_inference_steps": "2"}, name)
        for name in ImageRequest.model_fields
        if name != "stream"  # whose answer has begun before an error
    ),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("bundles")
    write_bundle(folder / "toy", measured={"points": [POINT]})
    with serve(folder, ToyRuntime()) as client:
        yield client


def is_answered(answer: Any) -> None:
    """With a success or a refusal, both in JSON that every parser reads."""
    assert 200 <= answer.status_code < 500, answer.text
    json.loads(answer.text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def post(client: TestClient, path: str, body: str | bytes, **headers: str) -> Any:
    return client.post(path, content=body, headers={"Content-Type": "application/json", **headers})


def written(fields: dict[str, str]) -> str:
    return "{" + ", ".join(f"{json.dumps(name)}: {value}" for name, value in fields.items()) + "}"


@pytest.mark.parametrize(("path", "body", "field"), FIELDS, ids=lambda value: value if isinstance(value, str) else "")
@settings(max_examples=40)
@given(token=tokens)
def test_a_number_in_any_field_is_answered(
    client: TestClient, path: str, body: dict[str, str], field: str, token: str
) -> None:
    is_answered(post(client, path, written({**body, field: token})))


@pytest.mark.parametrize(("path", "body", "field"), FIELDS, ids=lambda value: value if isinstance(value, str) else "")
def test_every_number_at_an_edge_in_any_field_is_answered(
    client: TestClient, path: str, body: dict[str, str], field: str
) -> None:
    for token in TOKENS:
        is_answered(post(client, path, written({**body, field: token})))


@pytest.mark.parametrize("name", [*INPUTS, "eta"])
def test_every_number_at_an_edge_in_any_tensor_is_answered(client: TestClient, name: str) -> None:
    for datatype in {**INPUTS, "eta": ("FP32",)}[name]:
        for token in TOKENS:
            tensor = {"name": f'"{name}"', "datatype": f'"{datatype}"', "shape": "[1]", "data": f"[{token}]"}
            is_answered(post(client, "/v2/models/toy/infer", written({"inputs": f"[{written(tensor)}]"})))


@pytest.mark.parametrize("path", ["/generate", "/v1/images/generations"])
@settings(max_examples=200)
@given(name=st.sampled_from(["eta", "step_size", "other"]), token=tokens)
def test_a_number_among_the_settings_is_answered(client: TestClient, path: str, name: str, token: str) -> None:
    body = {"method": '"toy"'} if path == "/generate" else {"model": '"toy"', "prompt": '"one"'}
    is_answered(post(client, path, written({**body, "settings": written({name: token})})))


@settings(max_examples=400)
@given(
    name=st.sampled_from([*INPUTS, "eta", "other"]),
    datatype=st.sampled_from(DATATYPES),
    declared=st.booleans(),
    token=tokens,
    shape=st.sampled_from(["1"]) | tokens,
)
def test_a_number_in_a_tensor_is_answered(
    client: TestClient, name: str, datatype: str, declared: bool, token: str, shape: str
) -> None:
    kind = {**INPUTS, "eta": ("FP32",)}.get(name, ("",))[0] if declared else datatype
    tensor = {"name": json.dumps(name), "datatype": json.dumps(kind), "shape": f"[{shape}]", "data": f"[{token}]"}
    is_answered(post(client, "/v2/models/toy/infer", written({"inputs": f"[{written(tensor)}]"})))


@settings(max_examples=300)
@given(
    name=st.sampled_from([*INPUTS, "eta"]),
    datatype=st.sampled_from(DATATYPES),
    content=st.binary(max_size=12) | st.binary(max_size=60).map(lambda data: len(data).to_bytes(4, "little") + data),
    size=st.none() | tokens,
    length=st.none() | tokens,
)
def test_bytes_of_a_tensor_and_their_lengths_are_answered(
    client: TestClient, name: str, datatype: str, content: bytes, size: str | None, length: str | None
) -> None:
    tensor = {"name": json.dumps(name), "datatype": json.dumps(datatype), "shape": "[1]"}
    tensor["parameters"] = written({"binary_data_size": str(len(content)) if size is None else size})
    head = written({"inputs": f"[{written(tensor)}]"}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)) if length is None else length}
    is_answered(post(client, "/v2/models/toy/infer", head + content, **headers))


@pytest.mark.parametrize("datatype", DTYPES)
@settings(max_examples=60)
@given(content=st.binary(min_size=8, max_size=8))
def test_every_number_of_a_datatype_is_answered(client: TestClient, datatype: str, content: bytes) -> None:
    for name, datatypes in {**INPUTS, "eta": ("FP32",)}.items():
        if datatype in datatypes and name != "n":
            data = content[: 8 if datatype == "UINT64" else 4]
            tensor = {"name": name, "datatype": datatype, "shape": [1], "parameters": {"binary_data_size": len(data)}}
            head = json.dumps({"inputs": [tensor]}).encode()
            headers = {"Inference-Header-Content-Length": str(len(head))}
            is_answered(post(client, "/v2/models/toy/infer", head + data, **headers))


@settings(max_examples=100)
@given(quality=tokens.filter(lambda token: len(token) < 1000))
def test_a_number_in_a_header_is_answered(client: TestClient, quality: str) -> None:
    for headers in ({"Accept": f"application/json;q={quality}"}, {"If-None-Match": quality}, {"X-Request-ID": quality}):
        is_answered(post(client, "/generate", '{"method": "toy", "seed": 1}', **headers))


@pytest.mark.parametrize("word", ["\\ud800", "\\u0000", "\\udfff\\ud800", "x" * 60_000, "\\u2028"])
def test_a_string_in_any_place_is_answered(client: TestClient, word: str) -> None:
    for path, body, field in FIELDS:
        is_answered(post(client, path, written({**body, field: f'"{word}"'})))
        is_answered(post(client, path, "{" + f'"{word}": 1}}'))
        is_answered(post(client, path, written({**body, "settings": f'{{"{word}": 1}}'})))
    for name in ("name", "datatype", "id"):
        tensor = {"name": '"solver"', "datatype": '"BYTES"', "shape": "[1]", "data": f'["{word}"]', name: f'"{word}"'}
        is_answered(post(client, "/v2/models/toy/infer", written({"inputs": f"[{written(tensor)}]"})))
