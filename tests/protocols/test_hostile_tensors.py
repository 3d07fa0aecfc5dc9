"""What no request over gRPC may have: each is refused by field, in a status and its details."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from tests.conftest import write_bundle
from tests.protocols.grpc_calls import CONTENTS, KINDS, details, failure, request, served, status_of, stub, tensor

CODE = grpc.StatusCode
REQUEST = service_pb2.ModelInferRequest
INPUT = REQUEST.InferInputTensor


def having(**fields: Any) -> Any:
    return REQUEST(model_name="toy", **fields)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("bundles")
    write_bundle(folder / "toy")
    with served(folder) as (_, address, _):
        yield address


BAD = {
    "a field's range": (request(steps=0), "steps", '"minimum":1'),
    "the model's range": (request(steps=1001), "steps", '"max":1000'),
    "a solver's range": (request(eta=1.5), "eta", '"max":1.0'),
    "no such class": (request(class_label=3), "class_label", '"names":["zero","one","2"]'),
    "no such solver": (request(solver="euler"), "solver", '["ddim","dpmpp_2m",'),
    "no such input": (having(inputs=[tensor("step", 4)]), "step", '"steps"'),
    "a datatype": (having(inputs=[tensor("steps", 4, datatype="INT64")]), "steps", '"INT32"'),
    "a shape": (having(inputs=[tensor("steps", 4, shape=(1, 1))]), "steps", "[1]"),
    "no shape": (having(inputs=[tensor("steps", 4, shape=())]), "steps", "[1]"),
    "a negative shape": (having(inputs=[tensor("steps", 4, shape=(-1,))]), "steps", "[1]"),
    "a long shape": (having(inputs=[tensor("steps", 4, shape=(1,) * 20_000)]), "steps", "[1]"),
    "two elements": (having(inputs=[tensor("steps", 4, 5)]), "steps", "one element"),
    "no element": (having(inputs=[tensor("steps")]), "steps", "one element"),
    "many elements": (having(inputs=[tensor("steps", *range(20_000))]), "steps", "one element"),
    "twice": (having(inputs=[tensor("n", 1), tensor("n", 1)]), "n", "twice"),
    "not finite": (request(eta=float("nan")), "eta", "number"),
    "not UTF-8": (
        having(
            inputs=[INPUT(name="solver", datatype="BYTES", shape=[1], contents={"bytes_contents": [b"\xff"]})],
        ),
        "solver",
        "UTF-8",
    ),
    "other contents": (
        having(inputs=[INPUT(name="n", datatype="INT32", shape=[1], contents={"int64_contents": [1]})]),
        "n",
        "int_contents",
    ),
    "contents in both forms": (
        having(inputs=[tensor("n", 1)], raw_input_contents=[b"\1\0\0\0"]),
        "n",
        "raw_input_contents",
    ),
    "raw contents of too few": (
        having(inputs=[INPUT(name="n"), INPUT(name="steps")], raw_input_contents=[b"\1\0\0\0"]),
        "raw_input_contents",
        "2 inputs",
    ),
    "raw contents of no input": (having(raw_input_contents=[b""]), "raw_input_contents", "0 inputs"),
    "raw contents of a wrong size": (
        having(inputs=[INPUT(name="n", datatype="INT32", shape=[1])], raw_input_contents=[b"\1"]),
        "n",
        "one INT32",
    ),
    "a raw string's length": (
        having(
            inputs=[INPUT(name="solver", datatype="BYTES", shape=[1])],
            raw_input_contents=[b"\\9\0\0\0a"],
        ),
        "solver",
        "4 bytes",
    ),
    "many inputs": (having(inputs=[INPUT()] * 10_000), "inputs", '"maxItems":64'),
    "many outputs": (having(outputs=[REQUEST.InferRequestedOutputTensor()] * 10_000), "outputs", "64"),
    "another output": (having(outputs=[{"name": "logits"}]), "outputs.logits", '"images"'),
    "a long id": (having(id="x" * 257), "id", "256"),
    "Triton's timeout": (
        having(parameters={"timeout": {"int64_param": 1}}),
        "parameters.timeout",
        "deadline_ms",
    ),
    "shared memory": (
        having(inputs=[INPUT(name="n", parameters={"shared_memory_region": {"string_param": "x"}})]),
        "n.parameters.shared_memory_region",
        "not supported",
    ),
    "previews without a stream": (
        having(parameters={"preview_every": {"int64_param": 1}}),
        "parameters.preview_every",
        "not supported",
    ),
    "many parameters": (having(parameters={f"k{i}": {} for i in range(3000)}), "parameters", "not"),
}


@pytest.mark.parametrize(("message", "field", "words"), BAD.values(), ids=BAD)
def test_a_bad_request_is_refused_by_field(address: str, message: Any, field: str, words: str) -> None:
    with stub(address) as calls:
        error = failure(calls.ModelInfer, message)
    assert error.code() == CODE.INVALID_ARGUMENT
    refused, delay_s = details(error)
    assert all(name.startswith(field) for name in refused)
    assert delay_s is None
    assert words in error.details()
    assert sum(map(len, refused.values())) < 4000


# --- anything ---------------------------------------------------------------------------------------------------------

NAMES = st.sampled_from([*KINDS, "guidance", "images", "", "x"]) | st.text(max_size=5)
DATATYPES = st.sampled_from([*CONTENTS, "INT64", "FP64", "BOOL", ""]) | st.text(max_size=5)
INTEGERS = st.sampled_from([0, 1, 2, 64, 2**31 - 1]) | st.integers(0, 2**31 - 1)
ELEMENTS = {
    "int_contents": st.integers(-(2**31), 2**31 - 1) | INTEGERS,
    "int64_contents": st.integers(-(2**63), 2**63 - 1),
    "uint_contents": INTEGERS,
    "uint64_contents": st.integers(0, 2**64 - 1),
    "fp32_contents": st.floats(width=32),
    "fp64_contents": st.floats(),
    "bytes_contents": st.binary(max_size=8) | st.sampled_from([b"ddim", b"high", b"one", b"dpmpp_2m"]),
    "bool_contents": st.booleans(),
}
PARAMETERS = st.dictionaries(
    st.sampled_from(["timeout", "priority", "triton_enable_empty_final_response", "x"]),
    st.sampled_from([{}, {"int64_param": 1}, {"int64_param": -1}, {"string_param": "2"}, {"uint64_param": 2**64 - 1}]),
    max_size=2,
)
CONTENT = st.sampled_from(list(ELEMENTS)).flatmap(
    lambda name: st.fixed_dictionaries({name: st.lists(ELEMENTS[name], max_size=2)})
)
LIKELY = st.sampled_from(list(KINDS)).flatmap(  # of the right datatype and shape
    lambda name: st.builds(lambda value: tensor(name, value), ELEMENTS[CONTENTS[KINDS[name]]])
)
TENSORS = LIKELY | st.builds(
    INPUT,
    name=NAMES,
    datatype=DATATYPES,
    shape=st.just([1]) | st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
    contents=CONTENT,
)
MESSAGES = st.builds(
    REQUEST,
    model_name=st.just("toy") | st.text(max_size=4),
    model_version=st.sampled_from(["", "1", "2"]),
    id=st.text(max_size=4),
    parameters=st.just({}) | PARAMETERS,
    inputs=st.lists(TENSORS, max_size=4),
    raw_input_contents=st.just([]) | st.lists(st.binary(max_size=9), max_size=3),
)
OWN_FAULTS = {CODE.INTERNAL, CODE.UNKNOWN, CODE.DATA_LOSS, CODE.UNAVAILABLE}


def test_no_tensors_are_an_error_of_the_servers(address: str) -> None:
    """Work that is too much is cut short by the deadline."""
    seen: set[Any] = set()

    @settings(max_examples=200)
    @given(MESSAGES)
    def ask(message: Any) -> None:
        seen.add(status_of(calls.ModelInfer, message, timeout=20))
        (response,) = calls.ModelStreamInfer(iter([message]), timeout=20, metadata=[("x-request-id", "1")])
        seen.add(CODE[response.infer_response.parameters["status"].string_param or "OK"])

    with stub(address) as calls:
        ask()
    assert not seen & OWN_FAULTS
    assert {CODE.OK, CODE.INVALID_ARGUMENT, CODE.NOT_FOUND} <= seen


@settings(max_examples=100)
@given(st.binary(max_size=60), MESSAGES)
def test_no_bytes_are_an_error_of_the_servers(address: str, more: bytes, message: Any) -> None:
    content = message.SerializeToString()
    with grpc.insecure_channel(address) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for damaged in (more, content[: len(content) // 2] + more, content + more):
            assert status_of(infer, damaged, timeout=20) not in OWN_FAULTS
