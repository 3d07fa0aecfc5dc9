"""The Open Inference Protocol, spoken by NVIDIA's tritonclient."""

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput, InferResult
from tritonclient.utils import InferenceServerException

from tests.protocols.conftest import KEY, own

DTYPES = {"INT32": np.int32, "UINT64": np.uint64, "FP32": np.float32, "BYTES": np.object_}
KINDS = {"steps": "INT32", "seed": "UINT64", "class_label": "INT32", "n": "INT32", "eta": "FP32", "solver": "BYTES"}


@pytest.fixture
def client(url: str) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(url.removeprefix("http://")) as client:
        yield client


def tensors(binary: bool, **values: Any) -> list[InferInput]:
    made = []
    for name, value in values.items():
        tensor = InferInput(name, [1], KINDS[name])
        tensor.set_data_from_numpy(np.array([value], dtype=DTYPES[KINDS[name]]), binary_data=binary)
        made.append(tensor)
    return made


def array(content: bytes) -> NDArray[np.float32]:
    loaded: NDArray[np.float32] = np.load(io.BytesIO(content), allow_pickle=False)
    return loaded


@pytest.mark.parametrize("binary_input", [True, False])
@pytest.mark.parametrize("binary_output", [True, False])
def test_the_images_are_the_engines_array_to_the_bit(
    url: str, client: InferenceServerClient, binary_input: bool, binary_output: bool
) -> None:
    asked = {"steps": 4, "seed": 2**64 - 1, "class_label": 1, "n": 3, "eta": 0.37, "solver": "ddim"}
    outputs = [InferRequestedOutput("images", binary_data=binary_output)]
    result = client.infer("toy", tensors(binary_input, **asked), outputs=outputs, request_id="mine")
    images = result.as_numpy("images")
    assert (images.dtype, images.shape) == (np.float32, (3, 1, 4, 4))
    assert images.tobytes() == array(own(url, **asked)).tobytes()
    response = result.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("mine", "toy", "1")
    assert ("data" in result.get_output("images")) is not binary_output


def test_every_input_may_be_left_out_and_the_drawn_seed_is_told(url: str, client: InferenceServerClient) -> None:
    result = client.infer("toy", [], model_version="1")  # asks for everything in binary
    seed = result.get_response()["parameters"]["seed"]
    assert result.as_numpy("images").tobytes() == array(own(url, seed=seed)).tobytes()


def test_it_says_what_it_serves(client: InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("toy")
    assert client.is_model_ready("toy", "1")
    assert not client.is_model_ready("toy", "2")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data", "model_configuration"]
    metadata = client.get_model_metadata("toy")
    assert metadata == client.get_model_metadata("toy", metadata["versions"][0])
    assert metadata["outputs"] == [{"name": "images", "datatype": "FP32", "shape": [-1, 1, 4, 4]}]
    told = {each["name"]: (each["datatype"], each["shape"]) for each in metadata["inputs"]}
    assert told.items() >= {name: (kind, [1]) for name, kind in KINDS.items()}.items()
    config = client.get_model_config("toy")
    assert (config["max_batch_size"], config["output"][0]["data_type"]) == (0, "TYPE_FP32")
    types = {each["name"]: each["data_type"] for each in config["input"] if each["optional"]}
    assert types == {name: f"TYPE_{kind.replace('BYTES', 'STRING')}" for name, (kind, _) in told.items()}
    ready, refused = client.get_model_repository_index()
    assert ready == {"name": "toy", "version": "1", "state": "READY", "reason": ""}
    assert (refused["name"], refused["state"]) == ("bad", "UNAVAILABLE")
    assert "format version 7" in refused["reason"]


def one(name: str, data: Any, datatype: str | None = None, shape: tuple[int, ...] = (1,)) -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype or KINDS.get(name, "INT32"), "data": [data]}


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([one("steps", 0)], ["steps", '"minimum":1']),
        ([one("steps", 1001)], ["steps", '"max":1000']),
        ([one("seed", -1)], ["seed", '"maximum":18446744073709551615']),
        ([one("n", 65)], ["n:", '"maximum":64']),
        ([one("eta", 1.5)], ["eta: 1.5 is outside", '"max":1.0']),
        ([one("eta", "1")], ["eta", '"number"']),
        ([one("class_label", 3)], ["class_label", '"names":["zero","one","2"]']),
        ([one("solver", 5)], ["solver", '"string"']),
        ([one("class_label", "one")], ["class_label", '"integer"']),
        ([one("index", -1)], ["index", '"minimum":0']),
        ([one("n", 2**31)], ["n:", '"maximum":2147483647']),
        ([one("n", 2.0)], ["n:", '"integer"']),
        ([one("step_size", 0.5, "FP32")], ["step_size: there is no such input", '"eta"']),
        ([one("solver", "euler")], ["solver", '["ddim","dpmpp_2m",']),
        ([one("step", 4)], ["step:", '"steps"']),
        ([one("steps", 4, "INT64")], ["steps", '"INT32"']),
        ([one("steps", 4, shape=(1, 1))], ["steps", "[1]"]),
        ([one("steps", 4), one("steps", 5)], ["steps", "twice"]),
        ([{**one("steps", 4), "data": [4, 5]}], ["steps", "one element"]),
        ([{"name": "steps", "shape": [1], "datatype": "INT32"}], ["steps", "binary_data_size"]),
        ([{"name": "steps"}], ["inputs.0.shape", "required"]),
        ("steps", ["inputs", "array"]),
    ],
)
def test_a_bad_input_is_named_with_what_it_may_be(url: str, inputs: Any, words: list[str]) -> None:
    answer = httpx.post(f"{url}/v2/models/toy/infer", json={"inputs": inputs})
    assert (answer.status_code, list(answer.json())) == (400, ["error"])
    assert all(word in answer.json()["error"] for word in words), answer.text


@pytest.mark.parametrize(
    ("size", "behind", "length", "words"),
    [
        (4, b"\x01\0", None, "steps has 2 bytes behind the JSON, not 4"),
        (2, b"\x01\0", None, "one INT32"),
        (4, b"\x01\0\0\0\0", None, "1 bytes behind the JSON belong to no input"),
        (4, b"\x01\0\0\0", "1000", "Inference-Header-Content-Length is '1000'"),
        (4, b"\x01\0\0\0", "-1", "Inference-Header-Content-Length is '-1'"),
        (4, b"\x01\0\0\0", "7", "Invalid JSON"),
    ],
)
def test_binary_that_does_not_add_up_is_refused(
    url: str, size: int, behind: bytes, length: str | None, words: str
) -> None:
    tensor = {"name": "steps", "shape": [1], "datatype": "INT32", "parameters": {"binary_data_size": size}}
    header = json.dumps({"inputs": [tensor]}).encode()
    headers = {"Inference-Header-Content-Length": length or str(len(header))}
    answer = httpx.post(f"{url}/v2/models/toy/infer", content=header + behind, headers=headers)
    assert answer.status_code == 400
    assert words in answer.json()["error"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_eta_that_is_no_number_is_refused(client: InferenceServerClient, value: float) -> None:
    with pytest.raises(InferenceServerException, match="eta") as refused:
        client.infer("toy", tensors(True, eta=value))
    assert refused.value.status() == "400"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"timeout": 1_000_000}, "parameters.timeout: it is not supported; the input deadline_ms is"),
        ({"priority": 1}, "parameters.priority: it is not supported; the input priority is"),
        ({"sequence_id": 7, "sequence_start": True}, "parameters.sequence_id: it is not supported"),
        ({"parameters": {"temperature": 0.5}}, "parameters.temperature: it is not supported"),
    ],
)
def test_a_parameter_that_would_do_nothing_is_refused(
    client: InferenceServerClient, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InferenceServerException, match=words) as refused:
        client.infer("toy", tensors(True, steps=2), **options)
    assert refused.value.status() == "400"


def test_classification_and_shared_memory_are_refused(client: InferenceServerClient) -> None:
    shared_input, shared_output = InferInput("steps", [1], "INT32"), InferRequestedOutput("images")
    shared_input.set_shared_memory("region", 4)
    shared_output.set_shared_memory("region", 64)
    for inputs, output, words in (
        ([], InferRequestedOutput("images", class_count=3), "outputs.0.parameters.classification: it is not supported"),
        ([], shared_output, "outputs.0.parameters.shared_memory_region: it is not supported"),
        ([shared_input], InferRequestedOutput("images"), "inputs.0.parameters.shared_memory_region: it is not"),
    ):
        with pytest.raises(InferenceServerException, match=words) as refused:
            client.infer("toy", inputs, outputs=[output])
        assert refused.value.status() == "400"


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_compressed_body_is_refused_as_such_and_an_answer_is_never_compressed(
    url: str, client: InferenceServerClient, coding: Any
) -> None:
    with pytest.raises(InferenceServerException, match=f"Content-Encoding is '{coding}'; send it as it is") as refused:
        client.infer("toy", tensors(True, steps=2), request_compression_algorithm=coding)
    assert refused.value.status() == "415"
    result = client.infer("toy", tensors(True, steps=2, seed=1), response_compression_algorithm=coding)
    assert result.as_numpy("images").tobytes() == array(own(url, steps=2, seed=1)).tobytes()
    for path in ("/generate", "/v1/images/generations", "/v2/models/toy/infer"):
        answer = httpx.post(f"{url}{path}", content=b"{}", headers={"Content-Encoding": coding})
        assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "identity")
    assert httpx.post(f"{url}/generate", json={"method": "toy"}, headers={"Content-Encoding": "identity"}).is_success


def test_what_belongs_to_an_extension_that_is_not_claimed_is_a_404(client: InferenceServerClient) -> None:
    for call in (
        lambda: client.load_model("toy"),
        lambda: client.unload_model("toy"),
        lambda: client.register_system_shared_memory("region", "key", 4),
        client.get_trace_settings,
    ):
        with pytest.raises(InferenceServerException) as missing:
            call()
        assert missing.value.status() == "404"


def test_what_is_not_there_is_a_404_in_the_protocols_form(client: InferenceServerClient) -> None:
    for model, version in (("other", ""), ("toy", "2"), ("auto", "")):
        with pytest.raises(InferenceServerException, match="toy") as missing:
            client.infer(model, [], model_version=version)
        assert missing.value.status() == "404"
    with pytest.raises(InferenceServerException) as missing:
        client.get_inference_statistics("toy")
    assert missing.value.status() == "404"


def test_a_full_queue_is_a_429_that_says_when_to_come_back(url: str) -> None:
    with httpx.Client(base_url=url) as client:
        answer = client.post("/v2/models/toy/infer", json={"inputs": [one("deadline_ms", 1), one("steps", 1000)]})
    assert (answer.status_code, list(answer.json())) == (429, ["error"])
    assert int(answer.headers["retry-after"]) >= 1


def test_a_key_is_wanted_but_for_health(locked: str) -> None:
    with InferenceServerClient(locked.removeprefix("http://")) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        with pytest.raises(InferenceServerException, match="send a key") as refused:
            client.infer("toy", [])
        assert refused.value.status() == "401"
        assert client.infer("toy", [], headers={"Authorization": f"Bearer {KEY}"}).as_numpy("images") is not None


def test_many_threads_at_once_get_each_its_own_images_and_are_counted(url: str) -> None:
    def ask(worker: int) -> list[bool]:
        with InferenceServerClient(url.removeprefix("http://")) as client:
            results: list[tuple[int, InferResult]] = [
                (seed, client.infer("toy", tensors(seed % 2 == 0, seed=seed, steps=1 + seed % 7)))
                for seed in range(100 * worker, 100 * worker + 15)
            ]
        return [
            result.as_numpy("images").tobytes() == array(own(url, seed=seed, steps=1 + seed % 7)).tobytes()
            for seed, result in results
        ]

    before = finished(url)
    with ThreadPoolExecutor(8) as pool:
        matches = [match for worker in pool.map(ask, range(8)) for match in worker]
    assert len(matches) == 120
    assert all(matches)
    assert finished(url) == before + 2 * 120


def finished(url: str) -> float:
    """Requests answered with 200, as the metrics count them."""
    name = 'trilemma_request_seconds_count{method="toy",status="200"}'
    found = [line for line in httpx.get(f"{url}/metrics").text.splitlines() if line.startswith(name)]
    return float(found[0].split()[-1]) if found else 0.0
