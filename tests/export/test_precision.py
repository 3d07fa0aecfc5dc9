"""Lower precision: which nodes get it, and that the emulation rounds where they would."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from bundle.gpu_manifest import Precision
from bundle.loading import Bundle, load
from bundle.manifest import STEP
from export.precision import KEPT, LOW, SUMS, WEIGHTED, convert, emulate, inner, key
from service.engine.denoise import first_step
from service.runtimes.cpu import OrtRuntime
from tests.conftest import SHIPPED

BUNDLES = [load(path.parent) for path in sorted(SHIPPED.parent.glob("*/manifest.json"))]
GRAPHS = [bundle.folder / name for bundle in BUNDLES for name in bundle.graphs]
DIGITS: dict[Precision, int] = {"fp16": 10, "tf32": 10, "bf16": 7}  # after the point, in base 2


def run(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    outputs: list[np.ndarray] = session.run(None, inputs)
    return outputs


def rounded(values: np.ndarray, precision: Precision) -> np.ndarray:
    """The nearest values with DIGITS digits, ties to even, by arithmetic that is independent of the code's."""
    mantissa, exponent = np.frexp(values.astype(np.float64))
    scale = 2.0 ** (DIGITS[precision] + 1)
    return np.ldexp(np.round(mantissa * scale) / scale, exponent).astype(np.float32)


def small(first: np.ndarray, second: np.ndarray) -> onnx.ModelProto:
    """x → sin → · first → + 1 → · second → cos."""
    nodes = [
        helper.make_node("Sin", ["x"], ["s"]),
        helper.make_node("MatMul", ["s", "first"], ["a"]),
        helper.make_node("Add", ["a", "one"], ["b"]),
        helper.make_node("MatMul", ["b", "second"], ["c"]),
        helper.make_node("Cos", ["c"], ["out"]),
    ]
    one = np.ones((), dtype=np.float32)
    weights = [numpy_helper.from_array(w, n) for w, n in ((first, "first"), (second, "second"), (one, "one"))]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 8]) for name in ("x", "out")]
    graph = helper.make_graph(nodes, "small", values[:1], values[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("precision", ["fp16", "bf16", "tf32"])
def test_the_emulation_rounds_as_plain_arithmetic_does(precision: Precision) -> None:
    rng = np.random.default_rng(0)
    first, second, x = rng.standard_normal((3, 8, 8)).astype(np.float32)
    model = small(first, second)
    (out,) = run(emulate(convert(model, precision), precision), {"x": x})
    a = rounded(np.sin(x), precision) @ rounded(first, precision)
    if precision == "tf32":  # operands of products only
        c = rounded(a + 1, precision) @ rounded(second, precision)
    else:
        b = rounded(rounded(a, precision) + 1, precision)
        c = rounded(b @ rounded(second, precision), precision)
    np.testing.assert_allclose(out, np.cos(c), rtol=1e-4, atol=1e-5)
    assert np.abs(out - run(model, {"x": x})[0]).max() > 1e-4  # it is not fp32


def test_only_what_lies_between_the_weights_is_lowered() -> None:
    model = small(*np.zeros((2, 8, 8), dtype=np.float32))
    assert inner(model) == {"a", "b", "c"}


@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: f"{path.parent.name} {path.stem}")
def test_embeddings_sums_and_the_update_stay_in_float32_and_the_rest_does_not(path: Path) -> None:
    model = onnx.load(path)
    low = inner(model)
    producers = {name: node for node in model.graph.node for name in node.output}

    def depends_on_x(node: onnx.NodeProto) -> bool:
        return any(name == "x" or (name in producers and depends_on_x(producers[name])) for name in node.input)

    for node in model.graph.node:
        if node.op_type in WEIGHTED:
            assert (key(node) in low) == depends_on_x(node)
        if node.op_type in SUMS:
            assert key(node) not in low
    for output in model.graph.output:  # the update: nothing but additions and products of float32
        assert output.name not in low
    assert len(low) > len(model.graph.node) / 3


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.manifest.name)
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_converted_step_keeps_its_inputs_and_outputs_and_halves_its_weights(
    bundle: Bundle, precision: Precision
) -> None:
    model = onnx.load(bundle.folder / STEP)
    converted = convert(model, precision)
    assert list(converted.graph.input) == list(model.graph.input)
    assert list(converted.graph.output) == list(model.graph.output)
    sizes = {weight.name: len(weight.raw_data) for weight in model.graph.initializer}
    low = {weight.name: len(weight.raw_data) for weight in converted.graph.initializer if weight.name.endswith(LOW)}
    lowered = inner(model, KEPT[precision])
    products = [node for node in model.graph.node if node.op_type in WEIGHTED and key(node) in lowered]
    assert {name + LOW for node in products for name in node.input if sizes.get(name)} <= low.keys()
    for name, size in low.items():
        assert 2 * size == sizes[name.removesuffix(LOW)]


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.manifest.name)
def test_onnx_runtime_takes_the_fp16_graph_itself_and_agrees_with_the_emulation(bundle: Bundle) -> None:
    model = onnx.load(bundle.folder / STEP)
    converted = convert(model, "fp16")
    inputs = OrtRuntime(bundle, threads=1).graph_inputs(first_step(bundle, 4))
    exact, itself, emulated = (run(m, inputs)[1] for m in (model, converted, emulate(converted, "fp16")))
    error = np.abs(exact - emulated).max()
    assert 0 < error < 0.05
    assert np.abs(itself - exact).max() < 2 * error


def test_a_shared_weight_is_kept_for_the_node_that_stays_in_float32() -> None:
    model = small(*np.ones((2, 8, 8), dtype=np.float32))
    model.graph.node[-1].op_type = "Add"
    model.graph.node[-1].input.append("second")
    converted = convert(model, "fp16")
    names = {weight.name: weight.data_type for weight in converted.graph.initializer}
    assert names == {
        f"first{LOW}": TensorProto.FLOAT16,
        f"one{LOW}": TensorProto.FLOAT16,
        f"second{LOW}": TensorProto.FLOAT16,
        "second": TensorProto.FLOAT,
    }
