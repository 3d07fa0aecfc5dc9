"""What an ONNX file must not hold is found wherever it stands, and a damaged file is refused, not fatal."""

from collections.abc import Callable
from contextlib import suppress

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from bundle.graph import Graph, check
from bundle.manifest import STEP
from tests.conftest import SHIPPED

IDENTITY = helper.make_node("Identity", ["x"], ["y"])
TENSOR = numpy_helper.from_array(np.zeros(2, dtype=np.float32), "w")


def model(*nodes: onnx.NodeProto, **parts: object) -> onnx.ModelProto:
    """A graph of these nodes and further parts."""
    return onnx.ModelProto(graph=onnx.GraphProto(node=[IDENTITY, *nodes], **parts))


def external(location: str = "weights.bin") -> TensorProto:
    tensor = TensorProto()
    tensor.CopyFrom(TENSOR)
    tensor.external_data.add(key="location", value=location)
    tensor.data_location = TensorProto.EXTERNAL
    return tensor


def attribute(**value: object) -> onnx.NodeProto:
    return onnx.NodeProto(op_type="Constant", attribute=[onnx.AttributeProto(name="value", **value)])


def sparse(tensor: TensorProto) -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(values=tensor, indices=TENSOR, dims=[2])


FORBIDDEN: dict[str, Callable[[], onnx.ModelProto]] = {
    "initializer": lambda: model(initializer=[TENSOR, external()]),
    "sparse initializer": lambda: model(sparse_initializer=[sparse(external())]),
    "tensor of a node": lambda: model(attribute(t=external())),
    "tensors of a node": lambda: model(attribute(tensors=[TENSOR, external()])),
    "sparse tensor of a node": lambda: model(attribute(sparse_tensor=sparse(external()))),
    "sparse tensors of a node": lambda: model(attribute(sparse_tensors=[sparse(external())])),
    "location alone": lambda: model(initializer=[TensorProto(data_location=TensorProto.EXTERNAL)]),
    "key alone": lambda: model(initializer=[TensorProto(external_data=[onnx.StringStringEntryProto(key="location")])]),
    "graph of a node": lambda: model(attribute(g=onnx.GraphProto())),
    "graphs of a node": lambda: model(attribute(graphs=[onnx.GraphProto()])),
    "function": lambda: onnx.ModelProto(graph=model().graph, functions=[onnx.FunctionProto()]),
    "training": lambda: onnx.ModelProto(graph=model().graph, training_info=[onnx.TrainingInfoProto()]),
    "domain": lambda: model(onnx.NodeProto(op_type="EPContext", domain="com.microsoft")),
    "no graph": onnx.ModelProto,
}


@pytest.mark.parametrize("build", FORBIDDEN.values(), ids=FORBIDDEN)
def test_what_a_file_must_not_hold_is_refused(build: Callable[[], onnx.ModelProto]) -> None:
    with pytest.raises(ValueError, match=r"^(it|operator) "):
        check(Graph(build().SerializeToString()))


@pytest.mark.parametrize("location", ["weights.bin", "../step.data", "/etc/passwd", ""])
def test_numbers_lie_in_the_graphs_own_file_or_in_the_one_of_the_manifest_and_nowhere_else(location: str) -> None:
    there = model(initializer=[external("step.data")]).SerializeToString()
    check(Graph(there, "step.data", b""))
    elsewhere = model(initializer=[external("step.data"), external(location)]).SerializeToString()
    with pytest.raises(ValueError, match="external data"):
        check(Graph(elsewhere, "step.data", b""))


def test_what_stands_twice_in_a_file_is_seen_twice() -> None:
    """Protocol Buffers merges a field that occurs again, so that one file appended to another is both."""
    with pytest.raises(ValueError, match="external data"):
        check(Graph(model().SerializeToString() + model(initializer=[external()]).SerializeToString()))


def test_the_shipped_graph_and_one_of_the_standard_domain_by_name_are_allowed() -> None:
    check(Graph((SHIPPED / STEP).read_bytes()))
    check(Graph(model(onnx.NodeProto(op_type="Identity", domain="ai.onnx")).SerializeToString()))


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_file_is_refused_with_a_reason_or_allowed(data: st.DataObject) -> None:
    content = bytearray(model(attribute(t=TENSOR), initializer=[TENSOR]).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    with suppress(ValueError):
        check(Graph(bytes(content)))
