"""Graphs that read their weights from a checkpoint's file."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from bundle.graph import Graph, check
from export.shared_weights import LEAST, share
from service.runtimes.onnx_session import open_session

ROWS, INPUTS, OUTPUTS = 3, 40, 50


def linear(weight: np.ndarray) -> onnx.ModelProto:
    """The graph y = x·weight."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", INPUTS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", OUTPUTS])],
        [numpy_helper.from_array(weight, "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def product(model: onnx.ModelProto, weights: Path) -> np.ndarray:
    """What the graph makes of fixed numbers, as the service runs it."""
    graph = Graph(model.SerializeToString(), weights.name, weights.read_bytes())
    check(graph)
    x = np.random.default_rng(1).standard_normal((ROWS, INPUTS), dtype=np.float32)
    y: np.ndarray = open_session(graph, threads=1).run(["y"], {"x": x})[0]
    return y


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_shared_weight_gives_the_same_bits_and_is_not_in_the_graph(
    tmp_path: Path, dtype: type[np.floating], transposed: bool
) -> None:
    stored = np.random.default_rng(0).standard_normal((INPUTS, OUTPUTS)).astype(dtype)
    weights = tmp_path / "model.safetensors"
    other = np.arange(7, dtype=np.int64)  # of a type that no graph's weights have
    save_file({"before": other, "w": np.ascontiguousarray(stored.T if transposed else stored)}, weights)
    model = linear(stored.astype(np.float32))
    before = product(model, weights)
    share(model, weights)
    assert model.ByteSize() < stored.nbytes / 4
    onnx.save(model, tmp_path / "step.onnx")
    onnx.checker.check_model(tmp_path / "step.onnx", full_check=True)
    np.testing.assert_array_equal(product(model, weights), before)


def test_a_weight_that_the_file_rounds_stays_in_the_graph(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((INPUTS, OUTPUTS)).astype(np.float32)
    save_file({"w": values.astype(np.float16)}, tmp_path / "model.safetensors")
    model = linear(values)
    before = model.SerializeToString()
    share(model, tmp_path / "model.safetensors")
    assert values.size >= LEAST
    assert model.SerializeToString() == before
