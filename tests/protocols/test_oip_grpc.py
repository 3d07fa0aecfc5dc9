"""The Open Inference Protocol over gRPC, spoken by NVIDIA's tritonclient: the same as over REST."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from google.protobuf.json_format import MessageToDict
from grpc_health.v1 import health_pb2, health_pb2_grpc
from httpx_sse import connect_sse
from tritonclient.grpc import InferenceServerClient, InferRequestedOutput, service_pb2
from tritonclient.utils import InferenceServerException

from service.grpc_oip import grpc_tensors
from service.requests.encoding import encode
from tests.conftest import write_bundle
from tests.protocols.conftest import own
from tests.protocols.grpc_calls import details, failure, request, served, stub, tensors

ASKED = {"steps": 4, "seed": 2**64 - 1, "class_label": 1, "n": 3, "eta": 0.37, "solver": "ddim", "priority": "high"}
CODE = grpc.StatusCode


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The URL of a server, and its address for gRPC."""
    folder = tmp_path_factory.mktemp("bundles")
    write_bundle(folder / "toy")
    write_bundle(folder / "bad", name="bad", format_version=7)
    with served(folder, max_queued_images=64) as (url, address, _):
        yield url, address


@pytest.fixture
def url(both: tuple[str, str]) -> str:
    return both[0]


@pytest.fixture
def address(both: tuple[str, str]) -> str:
    return both[1]


@pytest.fixture
def client(address: str) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(address) as client:
        yield client


def test_the_images_are_those_of_rest_to_the_bit(url: str, client: InferenceServerClient, address: str) -> None:
    result = client.infer("toy", tensors(**ASKED), outputs=[InferRequestedOutput("images")], request_id="mine")
    expected = np.load(io.BytesIO(own(url, **ASKED)))
    assert result.as_numpy("images").dtype == np.float32
    assert np.array_equal(result.as_numpy("images"), expected)
    response = result.get_response()
    assert (response.id, response.model_name, response.model_version) == ("mine", "toy", "1")
    assert response.parameters["seed"].uint64_param == 2**64 - 1
    digest = httpx.get(f"{url}/methods").json()[0]["model"]["digest"]
    assert response.parameters["digest"].string_param == digest
    with stub(address) as calls:  # the same numbers in the other form
        assert calls.ModelInfer(request(**ASKED)).raw_output_contents[0] == expected.tobytes()


def test_every_input_may_be_left_out(url: str, client: InferenceServerClient) -> None:
    result = client.infer("toy", [], model_version="1")
    seed = result.get_response().parameters["seed"].uint64_param
    assert result.as_numpy("images").tobytes() == np.load(io.BytesIO(own(url, seed=seed))).tobytes()


def test_it_says_of_models_what_rest_says(url: str, client: InferenceServerClient) -> None:
    def rest(path: str) -> Any:
        return httpx.get(f"{url}/v2{path}").json()

    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("toy", "1")
    server = client.get_server_metadata(as_json=True)
    assert {name: server[name] for name in ("name", "version")} == {
        name: rest("")[name] for name in ("name", "version")
    }
    assert client.get_server_metadata(as_json=True)["extensions"][:2] == rest("")["extensions"]
    metadata = rest("/models/toy")
    for each in (*metadata["inputs"], *metadata["outputs"]):
        each["shape"] = [str(size) for size in each["shape"]]  # JSON of an int64
    assert client.get_model_metadata("toy", as_json=True) == metadata
    config = rest("/models/toy/config")
    theirs = client.get_model_config("toy").config
    assert (theirs.name, theirs.platform, theirs.backend) == ("toy", config["platform"], config["backend"])
    assert [MessageToDict(each)["dataType"] for each in theirs.input] == [each["data_type"] for each in config["input"]]
    assert [each.name for each in theirs.input if each.optional] == [each["name"] for each in config["input"]]
    assert list(theirs.output[0].dims) == config["output"][0]["dims"]
    index = httpx.post(f"{url}/v2/repository/index").json()
    models = client.get_model_repository_index().models
    assert [(each.name, each.version, each.state, each.reason) for each in models] == [
        tuple(each.values()) for each in index
    ]


@pytest.mark.parametrize(("model", "version"), [("other", ""), ("toy", "2"), ("", "")])
def test_an_unknown_model_or_version_is_not_found(client: InferenceServerClient, model: str, version: str) -> None:
    for call in (client.is_model_ready, client.get_model_metadata, client.get_model_config):
        with pytest.raises(InferenceServerException) as caught:
            call(model, version)
        assert caught.value.status() == "StatusCode.NOT_FOUND"
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, [], version)
    assert caught.value.status() == "StatusCode.NOT_FOUND"


RAW = service_pb2.ModelInferRequest


def test_no_message_is_longer_than_a_body_may_be(address: str) -> None:
    with stub(address) as calls:
        error = failure(calls.ModelInfer, RAW(model_name="toy", id="x" * 65536))
        assert error.code() == CODE.RESOURCE_EXHAUSTED
        error = failure(calls.ModelInfer, request(), metadata=[("x-long", "x" * 20_000)])
        assert error.code() == CODE.RESOURCE_EXHAUSTED
        error = failure(calls.ModelInfer, RAW(model_name="toy", id="x" * 2**20), compression=grpc.Compression.Gzip)
        assert error.code() == CODE.UNIMPLEMENTED
        assert calls.ServerLive(service_pb2.ServerLiveRequest()).live


def test_an_answer_is_no_longer_than_a_message_may_be(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_tensors, "MAX_ANSWER_BYTES", 3 * 64)
    with stub(address) as calls:
        assert len(calls.ModelInfer(request(n=3)).raw_output_contents[0]) == 3 * 64
        refused, _ = details(failure(calls.ModelInfer, request(n=4)))
    assert '"max":3' in refused["n"]


def test_what_is_no_message_or_no_method_has_a_status_of_its_own(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        assert failure(infer, b"\xff" * 50).code() == CODE.INVALID_ARGUMENT
        assert failure(channel.unary_unary("/inference.GRPCInferenceService/Other"), b"").code() == CODE.UNIMPLEMENTED


# --- streams ----------------------------------------------------------------------------------------------------------


def previews(url: str, **fields: Any) -> list[tuple[int, int, bytes]]:
    """Of the stream over HTTP: the image, the step, and the PNG."""
    found = []
    with (
        httpx.Client() as client,
        connect_sse(
            client, "POST", f"{url}/generate", json={"method": "toy", **fields}, headers={"Accept": "text/event-stream"}
        ) as source,
    ):
        for event in source.iter_sse():
            data = json.loads(event.data)
            if "preview" in data:
                found.append((data["image"], data["index"], base64.b64decode(data["preview"])))
    return found


def test_a_stream_has_the_previews_of_http_and_then_the_images(url: str, client: InferenceServerClient) -> None:
    fields = {"steps": 6, "seed": 3, "n": 2}
    answers: list[Any] = []
    client.start_stream(lambda result, error: answers.append(result or error))
    client.async_stream_infer("toy", tensors(**fields), request_id="a", parameters={"preview_every": 2})
    client.async_stream_infer("toy", tensors(**fields), request_id="b", enable_empty_final_response=True)
    client.stop_stream()
    *steps, last, alone = answers
    seen = []
    for step in steps:
        response = step.get_response()
        place = [response.parameters[name].uint64_param for name in ("image", "step", "steps")]
        assert (response.id, place[2], response.parameters["triton_final_response"].bool_param) == ("a", 6, False)
        seen.append((place[0], place[1], encode(step.as_numpy("preview"), "png")))
    assert sorted(seen) == sorted(previews(url, preview_every=2, **fields))
    assert len(seen) == 2 * 3
    images = np.load(io.BytesIO(own(url, **fields))).tobytes()
    for answer, id in ((last, "a"), (alone, "b")):
        assert answer.as_numpy("images").tobytes() == images
        assert (answer.get_response().id, answer.get_response().parameters["seed"].uint64_param) == (id, 3)
        assert answer.get_response().parameters["triton_final_response"].bool_param


def test_a_refused_request_of_a_stream_leaves_the_others(address: str) -> None:
    zero = RAW(model_name="toy", id="b", parameters={"preview_every": {"int64_param": 0}})
    text = RAW(model_name="toy", id="c", parameters={"preview_every": {"string_param": "2"}})
    messages = [RAW(model_name="other", id="a"), zero, text, RAW(model_name="toy", id="d")]
    with stub(address) as calls:
        *refused, last = calls.ModelStreamInfer(iter(messages))
    assert [each.infer_response.id for each in refused] == ["a", "b", "c"]
    statuses = [each.infer_response.parameters["status"].string_param for each in refused]
    assert statuses == ["NOT_FOUND", "INVALID_ARGUMENT", "INVALID_ARGUMENT"]
    assert all("preview_every" in each.error_message for each in refused[1:])
    assert (last.error_message, last.infer_response.id) == ("", "d")


# --- health -----------------------------------------------------------------------------------------------------------


def test_the_standard_health_service_says_whether_requests_are_served(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", "inference.GRPCInferenceService"):
            assert health.Check(health_pb2.HealthCheckRequest(service=name)).status == 1  # SERVING
        error = failure(health.Check, health_pb2.HealthCheckRequest(service="other"))
        assert error.code() == CODE.NOT_FOUND
        watching = health.Watch(health_pb2.HealthCheckRequest())
        assert next(watching).status == 1
        watching.cancel()


def test_a_server_that_starts_or_drains_does_not_serve(tmp_path: Path) -> None:
    write_bundle(tmp_path / "toy")
    with served(tmp_path) as (_, address, app), grpc.insecure_channel(address) as channel:
        watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watching).status == 1
        app.state.service.models._phase = "draining"
        assert next(watching).status == 2  # NOT_SERVING
        with InferenceServerClient(address) as client:
            assert client.is_server_live()
            assert not client.is_server_ready()
            with pytest.raises(InferenceServerException) as caught:
                client.infer("toy", [])
        assert caught.value.status() == "StatusCode.UNAVAILABLE"
