"""An engine's numbers: which nodes of a graph compute in fewer bits, the graph with them doing so, and its emulation.

fp32 and tf32 leave the graph as it is: whether a matrix product rounds its operands to TF32 is a switch of the runtime.
fp16 and bf16 are in the graph itself, which TensorRT then takes as strongly typed. The nodes that compute in them lie
between the first and the last weighted node on the way from x. So the embeddings of time and class, Fourier features of
x, the skip past the network and the update stay float32, and so do the nodes that sum over many numbers (`SUMS`).
"""

from collections.abc import Container, Iterable, Iterator

import onnx
import onnx.version_converter
from onnx import NodeProto, TensorProto, helper, numpy_helper

from bundle.gpu_manifest import Precision

WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
SUMS = {"GroupNormalization", "InstanceNormalization", "LayerNormalization", "ReduceMean", "ReduceSum", "Softmax"}
KEPT = {"fp16": SUMS, "bf16": SUMS | {"ConvTranspose"}}  # TensorRT for RTX builds no such convolution in bf16
LOW_TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
OPSETS = {"fp16": 20, "bf16": 22}  # the first in which every operator takes the type
LOW = ".low"  # ends the name of a tensor in the low type
ROUNDED = ".rounded"


def convert(model: onnx.ModelProto, precision: Precision) -> onnx.ModelProto:
    """The graph with its inner nodes in `precision`; inputs and outputs keep their types.

    Raises onnx.checker.ValidationError or onnx.shape_inference.InferenceError naming a node that ONNX does not allow.
    """
    if precision not in LOW_TYPES:
        onnx.checker.check_model(model, full_check=True)
        return model
    converted = onnx.version_converter.convert_version(model, OPSETS[precision])
    _Lowering(converted.graph, inner(converted, KEPT[precision]), LOW_TYPES[precision]).run()
    del converted.graph.value_info[:]
    onnx.checker.check_model(converted, full_check=True)
    return converted


def emulate(converted: onnx.ModelProto, precision: Precision) -> onnx.ModelProto:
    """A graph for any CPU that rounds where the converted one would on a GPU, and computes in float32 between.

    A product's operands in TF32 are rounded to float16: as many digits, and a smaller range.
    """
    emulated = onnx.ModelProto()
    emulated.CopyFrom(converted)
    graph = emulated.graph
    if precision == "tf32":
        low, rounds = TensorProto.FLOAT16, {key(node) for node in graph.node if node.op_type in WEIGHTED}
    elif precision in LOW_TYPES:
        low, rounds = LOW_TYPES[precision], {key(node) for node in graph.node if key(node).endswith(LOW)}
    else:
        return emulated
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        if key(node) in rounds and node.op_type != "Cast":
            graph.node.extend(_in_float(node, low, widens=precision == "tf32"))
        else:
            graph.node.append(node)
    del graph.value_info[:]
    return emulated


def key(node: NodeProto) -> str:
    """Names a node: its name need not be unique, its output's is."""
    return node.output[0]


def inner(model: onnx.ModelProto, kept: Container[str] = SUMS) -> set[str]:
    """The keys of the nodes that compute in fewer bits: none whose operator is to be `kept` in float32."""
    typed = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    floats = {
        value.name
        for value in [*typed.value_info, *typed.input, *typed.output]
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    nodes = list(typed.node)
    after_x = _reached(nodes, {"x"})
    weighted = [node for node in nodes if key(node) in after_x and node.op_type in WEIGHTED]
    after = _reached(nodes, {name for node in weighted for name in node.output})
    before = _reaching(nodes, {name for node in weighted for name in node.input})
    between = {key(node) for node in weighted} | (after & before)
    return {
        key(node)
        for node in nodes
        if key(node) in between and node.op_type not in kept and floats.issuperset(node.output)
    }


def _reached(nodes: Iterable[NodeProto], tensors: set[str]) -> set[str]:
    """The nodes that depend on one of the tensors; nodes come in the order they run."""
    tensors, found = set(tensors), set()
    for node in nodes:
        if not tensors.isdisjoint(node.input):
            tensors.update(node.output)
            found.add(key(node))
    return found


def _reaching(nodes: list[NodeProto], tensors: set[str]) -> set[str]:
    """The nodes that one of the tensors depends on."""
    tensors, found = set(tensors), set()
    for node in reversed(nodes):
        if not tensors.isdisjoint(node.output):
            tensors.update(node.input)
            found.add(key(node))
    return found


def _typed_inputs(node: NodeProto) -> Iterator[int]:
    """Which inputs are of the outputs' type, by the operator's schema: not a shape, an index, or scales of a Resize."""
    schema = onnx.defs.get_schema(node.op_type, node.domain)
    types = {output.type_str for output in schema.outputs}
    for i, name in enumerate(node.input):
        if name and schema.inputs[min(i, len(schema.inputs) - 1)].type_str in types:
            yield i


class _Lowering:
    """Changes a graph in place."""

    def __init__(self, graph: onnx.GraphProto, inner: set[str], low: int) -> None:
        self.graph, self.inner, self.low = graph, inner, low
        self.weights = {weight.name: weight for weight in graph.initializer}
        self.there: set[str] = set()  # tensors of the low type, by their names without the ending
        self.nodes: list[NodeProto] = []

    def run(self) -> None:
        outer = {name for node in self.graph.node if key(node) not in self.inner for name in node.input}
        outer |= {output.name for output in self.graph.output}
        for node in self.graph.node:
            if key(node) in self.inner:
                self._lower(node, outer)
            else:
                self.nodes.append(node)
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        used = {name for node in self.nodes for name in node.input}
        unused = [weight for weight in self.graph.initializer if weight.name not in used]
        for weight in unused:
            self.graph.initializer.remove(weight)

    def _lower(self, node: NodeProto, outer: set[str]) -> None:
        for i in _typed_inputs(node):
            node.input[i] = self._low(node.input[i])
        self.nodes.append(node)
        for i, name in enumerate(node.output):
            node.output[i] = name + LOW
            self.there.add(name)
            if name in outer:
                self.nodes.append(_cast(name + LOW, name, TensorProto.FLOAT))

    def _low(self, name: str) -> str:
        """The tensor's name in the low type, made if need be."""
        if name not in self.there:
            self.there.add(name)
            if name in self.weights:
                self.graph.initializer.append(_lowered(self.weights[name], self.low))
            else:
                self.nodes.append(_cast(name, name + LOW, self.low))
        return name + LOW


def _lowered(weight: TensorProto, low: int) -> TensorProto:
    values = numpy_helper.to_array(weight)
    return numpy_helper.from_array(values.astype(helper.tensor_dtype_to_np_dtype(low)), weight.name + LOW)


def _cast(source: str, target: str, to: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"cast {target}", to=to)


def _in_float(node: NodeProto, low: int, *, widens: bool) -> Iterator[NodeProto]:
    """The node in float32 on inputs of the low type, to outputs of it; from float32 to float32 if `widens`."""
    computing = onnx.NodeProto()
    computing.CopyFrom(node)
    for i in _typed_inputs(node):
        name, wide = node.input[i], f"{node.input[i]}{ROUNDED}.{i}.{key(node)}"
        if widens:
            yield _cast(name, f"{wide}.low", low)
            name = f"{wide}.low"
        yield _cast(name, wide, TensorProto.FLOAT)
        computing.input[i] = wide
    if not widens:
        for i, name in enumerate(node.output):
            computing.output[i] = name + ROUNDED
    yield computing
    if not widens:
        yield from (_cast(name + ROUNDED, name, low) for name in node.output)
