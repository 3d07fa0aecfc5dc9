"""Lets a graph read its weights from a checkpoint's file, in place of a copy of its own.

External data in ONNX are bytes at an offset of a file, and so are the tensors of a safetensors file: eight bytes with
the length of the header, the header in JSON, then the tensors (https://huggingface.co/docs/safetensors).
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data
from safetensors.numpy import load_file

LEAST = 1024  # numbers: smaller tensors stay in the graph
TYPES = {"F16": TensorProto.FLOAT16, "F32": TensorProto.FLOAT}


def share(model: onnx.ModelProto, weights: Path) -> None:
    """Points the float32 tensors of `model` that `weights`, a safetensors file, has too at their places in it.

    A tensor may lie there in float16, where that is exact, and transposed: ONNX Runtime casts and transposes it once,
    when it opens the graph.
    """
    entries = read_header(weights)
    names = {content(tensor): name for name, tensor in load_file(weights).items() if entries[name]["dtype"] in TYPES}
    nodes: list[NodeProto] = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or math.prod(tensor.dims) < LEAST:
            continue
        values = numpy_helper.to_array(tensor)
        if (name := names.get(content(values))) is not None:
            nodes += point(tensor, entries[name], weights.name, transpose=False)
        elif (name := names.get(content(values.T))) is not None:
            nodes += point(tensor, entries[name], weights.name, transpose=True)
    nodes += model.graph.node
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def read_header(weights: Path) -> dict[str, Any]:
    """The entries of a safetensors file by tensor: its `dtype`, its `shape`, and its `place` in the file, in bytes."""
    with weights.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    start = 8 + length
    for entry in header.values():
        first, end = entry["data_offsets"]
        entry["place"] = slice(start + first, start + end)
    entries: dict[str, Any] = header
    return entries


def content(values: NDArray[Any]) -> tuple[tuple[int, ...], bytes]:
    """What two equal tensors have in common, whatever their types and strides."""
    return values.shape, np.ascontiguousarray(values, dtype=np.float32).tobytes()


def point(tensor: TensorProto, entry: dict[str, Any], file: str, *, transpose: bool) -> list[NodeProto]:
    """Makes the tensor one that lies in `file`; returns the nodes that give what it was, under its name."""
    chain: list[tuple[str, dict[str, Any]]] = []
    if entry["dtype"] == "F16":
        chain.append(("Cast", {"to": TensorProto.FLOAT}))
    if transpose:
        chain.append(("Transpose", {"perm": [*reversed(range(len(entry["shape"])))]}))
    names = [f"{tensor.name} {number}" for number in range(len(chain))] + [tensor.name]
    stored = TensorProto(name=names[0], data_type=TYPES[entry["dtype"]], dims=entry["shape"], raw_data=b"-")
    place = entry["place"]
    set_external_data(stored, location=file, offset=place.start, length=place.stop - place.start)
    stored.ClearField("raw_data")
    tensor.CopyFrom(stored)
    return [
        helper.make_node(operator, [before], [after], name=after, **attributes)
        for (operator, attributes), before, after in zip(chain, names, names[1:], strict=False)
    ]
