"""The roofline of a step: a lower bound of its time on a GPU, from its floating-point operations and its bytes.

`python -m export.roofline` prints it for the shipped bundles. Operations are those of Conv, Gemm and MatMul; bytes are
the weights, inputs and outputs, each moved once. A long chain of dependent products keeps a small step far from it.
"""

import math
from pathlib import Path
from typing import NamedTuple

import onnx
from onnx import NodeProto, helper

from bundle import loading
from bundle.gpu_manifest import Precision
from export.precision import WEIGHTED, convert
from service.settings import SHIPPED_BUNDLES

ROWS = (1, 16, 32)
PRECISION: Precision = "fp16"


class Gpu(NamedTuple):
    """Peaks from the maker's data sheet: dense float16 products summed in float32, and the memory's bandwidth."""

    name: str
    flops_per_s: float
    bytes_per_s: float


GPUS = (
    Gpu("A100 SXM 80 GB", 312e12, 2.039e12),
    Gpu("RTX 4090", 165.2e12, 1.008e12),
    Gpu("H100 SXM 80 GB", 989.4e12, 3.35e12),
)


class Roofline(NamedTuple):
    """The operations and bytes of one run of a graph."""

    flops: int
    weight_bytes: int
    row_bytes: int  # inputs and outputs of all rows
    chain: int  # products that depend on each other, one after the other

    def lower_bound_s(self, gpu: Gpu) -> float:
        """Seconds that the run takes at least (Williams et al. 2009, doi 10.1145/1498765.1498785)."""
        return max(self.flops / gpu.flops_per_s, (self.weight_bytes + self.row_bytes) / gpu.bytes_per_s)


def roofline(model: onnx.ModelProto, rows: int) -> Roofline:
    """The roofline of a graph at `rows` rows, with weights, inputs and outputs in the types that the graph has."""
    shapes, sizes = shapes_and_bytes(model, rows)
    weights = {weight.name for weight in model.graph.initializer}
    ends = [value.name for value in (*model.graph.input, *model.graph.output) if value.name not in weights]
    return Roofline(
        flops=sum(flops(node, shapes) for node in model.graph.node),
        weight_bytes=sum(sizes[name] for name in weights),
        row_bytes=sum(sizes[name] for name in ends),
        chain=longest_chain(model),
    )


def shapes_and_bytes(model: onnx.ModelProto, rows: int) -> tuple[dict[str, list[int]], dict[str, int]]:
    """Shapes and bytes of all tensors in a batch of `rows` rows."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = rows
    del fixed.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(fixed, strict_mode=True, data_prop=True).graph
    shapes = {weight.name: list(weight.dims) for weight in graph.initializer}
    kinds = {weight.name: weight.data_type for weight in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        shapes[value.name] = [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        kinds[value.name] = value.type.tensor_type.elem_type
    width = {name: helper.tensor_dtype_to_np_dtype(kind).itemsize for name, kind in kinds.items()}
    return shapes, {name: width[name] * math.prod(shape) for name, shape in shapes.items()}


def flops(node: NodeProto, shapes: dict[str, list[int]]) -> int:
    """Two operations a product and its sum; 0 for a node that is not WEIGHTED. Raises KeyError for unknown shapes."""
    if node.op_type not in WEIGHTED:
        return 0
    x, weight, out = (shapes[name] for name in (node.input[0], node.input[1], node.output[0]))
    if node.op_type == "Conv":
        return 2 * math.prod(out) * math.prod(weight[1:])
    if node.op_type == "ConvTranspose":
        return 2 * math.prod(x) * math.prod(weight[1:])
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return 2 * math.prod(out) * (x[-2] if transposed else x[-1])


def longest_chain(model: onnx.ModelProto) -> int:
    """The length of the longest path through WEIGHTED nodes."""
    depth: dict[str, int] = {}
    for node in model.graph.node:
        before = max((depth.get(name, 0) for name in node.input), default=0)
        for name in node.output:
            depth[name] = before + (node.op_type in WEIGHTED)
    return max(depth.values())


def main() -> None:
    header = " | ".join(f"µs on {gpu.name}" for gpu in GPUS)
    print(f"| {PRECISION} | rows | GFLOP | MB of weights | MB of rows | products in a row | {header} |")
    print("|---|--:|--:|--:|--:|--:|" + "--:|" * len(GPUS))
    for loaded in loading.load_all(SHIPPED_BUNDLES)[0].values():
        for name in loaded.manifest.files:
            model = convert(onnx.load(loaded.folder / name), PRECISION)
            for rows in ROWS:
                print(line(f"{loaded.manifest.name} {Path(name).stem}", rows, roofline(model, rows)))


def line(name: str, rows: int, roof: Roofline) -> str:
    """A row of the table."""
    times = " | ".join(f"{1e6 * roof.lower_bound_s(gpu):.1f}" for gpu in GPUS)
    sizes = f"{roof.weight_bytes / 1e6:.2f} | {roof.row_bytes / 1e6:.3f}"
    return f"| {name} | {rows} | {roof.flops / 1e9:.3f} | {sizes} | {roof.chain} | {times} |"


if __name__ == "__main__":
    main()
