"""What an ONNX file may hold: one graph that ends, of standard operators, with its numbers in files of the bundle.

Only the fields that decide this are parsed (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto), and without the
package onnx. The parser is that of protobuf, as in ONNX Runtime, so both see the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

MAX_NODES = 100_000  # of a large U-Net are 5,000
STANDARD = frozenset({"", "ai.onnx"})  # domains; the operators of others may read files, and some contain a loop

BYTES, STRING, INT64 = 12, 9, 3  # of FieldDescriptorProto.Type
# By message: name, number and type of a field. All are repeated here: ONNX Runtime merges what occurs twice.
FIELDS: dict[str, list[tuple[str, int, str | int]]] = {
    "Model": [("graph", 7, "Graph"), ("training_info", 20, BYTES), ("functions", 25, BYTES)],
    "Graph": [("node", 1, "Node"), ("initializer", 5, "Tensor"), ("sparse_initializer", 15, "SparseTensor")],
    "Node": [("op_type", 4, STRING), ("attribute", 5, "Attribute"), ("domain", 7, STRING)],
    "Attribute": [
        ("t", 5, "Tensor"),
        ("g", 6, BYTES),
        ("tensors", 10, "Tensor"),
        ("graphs", 11, BYTES),
        ("sparse_tensor", 22, "SparseTensor"),
        ("sparse_tensors", 23, "SparseTensor"),
    ],
    "SparseTensor": [("values", 1, "Tensor"), ("indices", 2, "Tensor")],
    "Tensor": [("external_data", 13, "Entry"), ("data_location", 14, INT64)],
    "Entry": [("key", 1, BYTES), ("value", 2, BYTES)],
}


@dataclass(frozen=True)
class Graph:
    """A graph as it lies in a bundle, read into memory."""

    content: bytes  # the ONNX file
    weights_file: str = ""  # the name of the file with its external data, if it has one
    weights: bytes = b""  # that file


def check(read: Graph) -> None:
    """Raises ValueError, saying what is wrong, for a graph that the service must not open."""
    model: Any = MODEL()
    try:
        model.ParseFromString(read.content)
    except DecodeError:
        raise ValueError("it is not an ONNX file") from None
    if not model.graph:
        raise ValueError("it has no graph")
    if model.functions or model.training_info:
        raise ValueError("it has functions or a training graph; a graph of operators alone can be served")
    if sum(len(graph.node) for graph in model.graph) > MAX_NODES:
        raise ValueError(f"it has more than {MAX_NODES} operators")
    for graph in model.graph:
        for node in graph.node:
            _check_node(node)
        for tensor in _tensors(graph):
            _check_place(tensor, read.weights_file)


def _check_node(node: Any) -> None:
    operator = ascii(node.op_type[-1] if node.op_type else "")[1:-1][:60]
    if not STANDARD.issuperset(node.domain):
        raise ValueError(f"operator {operator} is of a domain that is not ONNX's own")
    if any(attribute.g or attribute.graphs for attribute in node.attribute):
        raise ValueError(f"operator {operator} has a graph of its own: no step may branch or loop")


def _tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    sparse = list(graph.sparse_initializer)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (*attribute.t, *attribute.tensors)
            sparse += [*attribute.sparse_tensor, *attribute.sparse_tensors]
    for tensor in sparse:
        yield from (*tensor.values, *tensor.indices)


def _check_place(tensor: Any, weights_file: str) -> None:
    """Raises ValueError for a tensor that lies in another file than this one."""
    if tensor.external_data or any(tensor.data_location):
        entries = [(b"".join(entry.key[-1:]), b"".join(entry.value[-1:])) for entry in tensor.external_data]
        if not weights_file or {value for key, value in entries if key == b"location"} != {weights_file.encode()}:
            raise ValueError("it keeps numbers in a file (external data) that the manifest does not have for it")


def _model_type() -> type[Message]:
    """The message type of a file, with the fields of FIELDS."""
    file = descriptor_pb2.FileDescriptorProto(name="trilemma/onnx.proto", package="trilemma", syntax="proto2")
    for message, fields in FIELDS.items():
        described = file.message_type.add(name=message)
        for name, number, kind in fields:
            field = described.field.add(name=name, number=number, label=3)  # LABEL_REPEATED
            if isinstance(kind, str):
                field.type, field.type_name = 11, f".trilemma.{kind}"  # TYPE_MESSAGE
            else:
                field.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    model: type[Message] = message_factory.GetMessageClass(pool.FindMessageTypeByName("trilemma.Model"))
    return model


MODEL = _model_type()
