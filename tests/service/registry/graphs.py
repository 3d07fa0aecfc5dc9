"""Tiny step graphs, good and hostile, as bundles."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bundle.manifest import MANIFEST, STEP
from tests.conftest import SHAPE, write_bundle

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
INPUTS = {
    "x": (FLOAT, SHAPE),
    "t": (FLOAT, ()),
    "y": (INT, ()),
    "noise": (FLOAT, SHAPE),
    "x0_prev": (FLOAT, SHAPE),
    "coefficients": (FLOAT, (8,)),
}


def model(
    nodes: list[onnx.NodeProto],
    weights: list[onnx.TensorProto] | None = None,
    outputs: tuple[str, ...] = ("x_new", "x0"),
) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info(name, kind, ["n", *shape]) for name, (kind, shape) in INPUTS.items()]
    results = [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, "step", inputs, results, weights or [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def identity() -> list[onnx.NodeProto]:
    return [helper.make_node("Identity", ["x"], [name]) for name in ("x_new", "x0")]


def constant(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, dtype=np.int64), name)


def endless() -> onnx.ModelProto:
    """A loop that never ends."""
    state = helper.make_tensor_value_info("state_in", FLOAT, None)
    body = helper.make_graph(
        [helper.make_node("Identity", ["go_in"], ["go"]), helper.make_node("Identity", ["state_in"], ["state"])],
        "body",
        [
            helper.make_tensor_value_info("i", INT, []),
            helper.make_tensor_value_info("go_in", TensorProto.BOOL, []),
            state,
        ],
        [
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", FLOAT, None),
        ],
    )
    true = helper.make_tensor("true", TensorProto.BOOL, [], [True])
    count = helper.make_tensor("count", INT, [], [2**62])
    loop = helper.make_node("Loop", ["count", "true", "x"], ["x_new"], body=body)
    return model([loop, helper.make_node("Identity", ["x"], ["x0"])], [true, count])


def huge(numbers: int) -> onnx.ModelProto:
    """Fills so many numbers while it runs, and gives x plus the first of them."""
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["filled"]),
        helper.make_node("ReduceSum", ["filled"], ["total"], keepdims=0),
        helper.make_node("Add", ["x", "total"], ["x_new"]),
        helper.make_node("Identity", ["x"], ["x0"]),
    ]
    return model(nodes, [constant("size", numbers)])


def scaled(by: float) -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.array(by, dtype=np.float32), "weight")
    nodes = [helper.make_node("Mul", ["x", "weight"], ["x_new"]), helper.make_node("Identity", ["x"], ["x0"])]
    return model(nodes, [weight])


def external(location: str) -> onnx.ModelProto:
    """A weight that lies in another file."""
    weight = TensorProto(name="weight", data_type=FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "4")):
        weight.external_data.add(key=key, value=value)
    nodes = [helper.make_node("Add", ["x", "weight"], ["x_new"]), helper.make_node("Identity", ["x"], ["x0"])]
    return model(nodes, [weight])


def hidden_external(location: str) -> onnx.ModelProto:
    """The same within a graph in a node of the graph."""
    inner = external(location).graph
    branch = helper.make_graph(
        [helper.make_node("Identity", ["weight"], ["b"])], "b", [], [inner.output[0]], inner.initializer
    )
    branch.output[0].name = "b"
    true = helper.make_tensor("true", TensorProto.BOOL, [], [True])
    choose = helper.make_node("If", ["true"], ["w"], then_branch=branch, else_branch=branch)
    add = helper.make_node("Add", ["x", "w"], ["x_new"])
    return model([choose, add, helper.make_node("Identity", ["x"], ["x0"])], [true])


def write(folder: Path, graph: onnx.ModelProto | bytes) -> Path:
    """A bundle of the graph, whose manifest is right."""
    write_bundle(folder, name=folder.name)
    content = graph if isinstance(graph, bytes) else graph.SerializeToString()
    (folder / STEP).write_bytes(content)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][STEP] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def replaced_by(make: Callable[[Path], object], name: str = STEP) -> Callable[[Path], Path]:
    """A bundle with something else where a file belongs."""

    def build(folder: Path) -> Path:
        write(folder, model(identity()))
        (folder / name).unlink()
        make(folder / name)
        return folder

    return build


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


def of(graph: Callable[[], onnx.ModelProto | bytes]) -> Callable[[Path], Path]:
    return lambda folder: write(folder, graph())


def mixed_shapes() -> onnx.ModelProto:
    nodes = [helper.make_node("Concat", ["x", "x"], ["x_new"], axis=1), helper.make_node("Identity", ["x"], ["x0"])]
    return model(nodes)


HOSTILE: dict[str, Callable[[Path], Path]] = {
    "empty": of(lambda: b""),
    "random": of(lambda: np.random.default_rng(0).bytes(5000)),
    "cut-off": of(lambda: model(identity()).SerializeToString()[:-40]),
    "text": of(lambda: b"not a graph"),
    "no-nodes": of(lambda: model([])),
    "no-output": of(lambda: model(identity(), outputs=("x_new",))),
    "unknown-operator": of(lambda: model([helper.make_node("Launch", ["x"], ["x_new"]), identity()[1]])),
    "unknown-domain": of(lambda: model([helper.make_node("Identity", ["x"], ["x_new"], domain="evil"), identity()[1]])),
    "other-shape": of(mixed_shapes),
    "not-a-number": of(lambda: scaled(float("nan"))),
    "infinite": of(lambda: scaled(float("inf"))),
    "endless": of(endless),
    "64-gigabytes": of(lambda: huge(2**34)),
    "impossible-size": of(lambda: huge(2**62)),
    "negative-size": of(lambda: huge(-5)),
    "external-passwd": of(lambda: external("../../../../etc/passwd")),
    "external-unlisted": of(lambda: external("weights.bin")),
    "external-hidden": of(lambda: hidden_external("weights.bin")),
    "fifo": replaced_by(os.mkfifo),
    "fifo-manifest": replaced_by(os.mkfifo, MANIFEST),
    "zero-manifest": replaced_by(lambda path: path.symlink_to("/dev/zero"), MANIFEST),
    "device": replaced_by(lambda path: path.symlink_to("/dev/zero")),
    "outside": replaced_by(lambda path: path.symlink_to("/etc/passwd"), MANIFEST),
    "folder": replaced_by(Path.mkdir),
    "terabyte": replaced_by(sparse),
    "link-to-itself": replaced_by(lambda path: path.symlink_to(path)),
}
