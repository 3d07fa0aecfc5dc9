"""Converts a graph to a lower precision, and emulates the converted graph on a CPU.

fp32 and tf32 leave the graph as it is: TF32 is an option of the runtime. In fp16 and bf16, the low type begins at the
first weighted node on the way from x and ends at the last. Nodes that sum over many numbers (`SUMS`) stay float32.
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
LOW = ".low"  # suffix of the name of a tensor in the low type
ROUNDED = ".rounded"


def convert(model: onnx.ModelProto, precision: Precision) -> onnx.ModelProto:
    """The graph with its inner nodes in `precision`; inputs and outputs keep their types.

    The embeddings of time and class, Fourier features of x, the skip past the network and the update stay float32.

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
    """A graph for any CPU that rounds wherever the converted one does on a GPU, and computes in float32 otherwise.

    For TF32, operands of products are rounded to float16, which has as many digits and a smaller range.
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
    """Identifies a node by its first output, whose name is unique; a node's own name need not be."""
    return node.output[0]


def inner(model: onnx.ModelProto, kept: Container[str] = SUMS) -> set[str]:
    """The keys of the nodes to compute in the low type. Operators in `kept` stay float32."""
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
    """The keys of the nodes that depend on one of the tensors; nodes come in the order they run."""
    tensors, keys = set(tensors), set()
    for node in nodes:
        if not tensors.isdisjoint(node.input):
            tensors.update(node.output)
            keys.add(key(node))
    return keys


def _reaching(nodes: list[NodeProto], tensors: set[str]) -> set[str]:
    """The keys of the nodes that one of the tensors depends on."""
    tensors, keys = set(tensors), set()
    for node in reversed(nodes):
        if not tensors.isdisjoint(node.output):
            tensors.update(node.input)
            keys.add(key(node))
    return keys


def _typed_inputs(node: NodeProto) -> Iterator[int]:
    """The inputs that have the outputs' type by the operator's schema: no shape, no index, no scales of a Resize."""
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
        self.lowered: set[str] = set()  # tensors that exist in the low type, by their names without the suffix
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
            self.lowered.add(name)
            if name in outer:
                self.nodes.append(_cast(name + LOW, name, TensorProto.FLOAT))

    def _low(self, name: str) -> str:
        """The tensor's name in the low type; adds a cast, or a converted weight, on first use."""
        if name not in self.lowered:
            self.lowered.add(name)
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
    """The node in float32, on inputs rounded to the low type; its outputs are rounded too, unless it `widens`."""
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
