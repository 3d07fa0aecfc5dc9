"""Makes a bundle's engines: converts its graphs to the precision wanted, checks that, and builds for the target."""

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper

from bundle import files, gpu_manifest
from bundle.files import BundleError
from bundle.gpu_manifest import MAGNITUDE, Engines, Graph, Precision, Target, Tensor
from bundle.loading import Bundle, sha256
from bundle.manifest import File
from export import accuracy, replacement
from export.precision import convert
from export.tensorrt_builder import FLAVOURS, TIMING_CACHE, EngineError, TensorRt

BUCKETS = (1, 2, 4, 8, 16, 32)
ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_120")
Models = Mapping[str, onnx.ModelProto]  # by file
RUNTIMES = ("onnxruntime-gpu", "onnxruntime")


@dataclass(frozen=True)
class Order:
    """What is asked for."""

    target: Target
    precision: Precision = "fp16"
    buckets: Sequence[int] = BUCKETS
    architectures: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.buckets or min(self.buckets) < 1 or list(self.buckets) != sorted(set(self.buckets)):
            raise EngineError(f"buckets are numbers of rows, each larger than the one before: not {list(self.buckets)}")
        if self.target not in FLAVOURS and self.architectures:
            raise EngineError(f"--target {self.target} is for every architecture: name none")
        if self.target == "cuda" and self.precision == "bf16":
            raise EngineError("bf16 is for TensorRT; --target cuda takes fp32, tf32 or fp16")


def make(bundle: Bundle, order: Order) -> tuple[Engines, bool]:
    """The bundle's engines as ordered, in its folder TARGET, and whether they were built just now.

    Nothing is done where they are there already, of the same files by the same version. Raises EngineError, and
    leaves what was there, if a graph cannot be converted or built, or its images are off by more than the tolerance.
    """
    folder = bundle.folder / order.target
    builder = TensorRt(order.target) if order.target in FLAVOURS else None
    if builder is not None:
        builder.check(order.architectures)
    made_of = {
        "target": order.target,
        "version": builder.version if builder else runtime_version(),
        "precision": order.precision,
        "buckets": list(order.buckets),
        "architectures": list(order.architectures),
        "sources": {name: file.sha256 for name, file in bundle.manifest.files.items()},
    }
    if (there := unchanged(folder, made_of)) is not None:
        return there, False
    partial = bundle.folder / f".{order.target}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        models = {name: converted(bundle.folder / name, order.precision, builder) for name in bundle.manifest.files}
        found = within_tolerance(bundle, models, order.precision)
        made = [one(bundle, name, model, order, builder, partial) for name, model in models.items()]
        files = {path.name: File(sha256=sha256(path), bytes=path.stat().st_size) for path, _ in made}
        graphs = {path.name: graph for path, graph in made}
        manifest = Engines.model_validate({**made_of, "files": files, "graphs": graphs, "accuracy": found})
        manifest.write(partial)
        replacement.check(folder, lambda path: path.suffix in (".onnx", ".engine", ".json"))
        replacement.swap(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest, True


def unchanged(folder: Path, made_of: Mapping[str, object]) -> Engines | None:
    """What is in the folder, if it is whole and was made of just that."""
    try:
        there = gpu_manifest.read(folder)
        for name, file in there.files.items():
            files.check(folder / name, folder.parent, file.sha256, file.bytes)
    except BundleError:
        return None
    same = there.model_dump(include=set(made_of)) == made_of
    return there if same and there.accuracy.tolerance == accuracy.TOLERANCE else None


def converted(path: Path, precision: Precision, builder: TensorRt | None) -> onnx.ModelProto:
    """The graph as it is built. Raises EngineError naming the node that ONNX, or TensorRT, does not know or allow."""
    try:
        model = convert(with_magnitude(onnx.load(path)), precision)
        if builder is not None:
            builder.parse(model.SerializeToString())
        return model
    except (DecodeError, EngineError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise EngineError(f"{path}: {error}") from error


def within_tolerance(bundle: Bundle, models: Models, precision: Precision) -> gpu_manifest.Accuracy:
    """How accurate the converted graphs are. Raises EngineError if it is not enough."""
    with tempfile.TemporaryDirectory() as folder:
        low = accuracy.emulated(bundle, models, precision, Path(folder))
        found = accuracy.measure(bundle, low, threads=os.cpu_count() or 1)
    for solver, off in found.by_solver.items():
        if not off <= found.tolerance:
            raise EngineError(
                f"in {precision} the images of solver {solver!r} are off those in fp32 by {off:.4f} "
                f"(root mean square), more than {found.tolerance}"
            )
    return found


def one(
    bundle: Bundle, name: str, model: onnx.ModelProto, order: Order, builder: TensorRt | None, folder: Path
) -> tuple[Path, Graph]:
    """Makes one of the converted graphs into a file in `folder`. Raises EngineError naming the graph."""
    content = model.SerializeToString()
    if builder is None:
        (folder / name).write_bytes(content)
        return folder / name, described(model)
    try:
        plan, graph = builder.build(
            content,
            precision=order.precision,
            buckets=order.buckets,
            architectures=order.architectures,
            timing_cache=bundle.folder / f"{order.target}.{TIMING_CACHE}",
        )
    except EngineError as error:
        raise EngineError(f"{bundle.folder / name}: {error}") from error
    if (graph.inputs, graph.outputs) != ((expected := described(model)).inputs, expected.outputs):
        raise EngineError(f"{bundle.folder / name}: TensorRT sees other inputs and outputs: {graph}, not {expected}")
    path = (folder / name).with_suffix(".engine")
    path.write_bytes(plan)
    return path, graph


def with_magnitude(model: onnx.ModelProto) -> onnx.ModelProto:
    """A step with one more output, `magnitude` (rows,): Σ|x_new| + Σ|x0| of each row. Another graph as it is.

    It says whether all of a row is finite in four bytes, so that the row itself can stay on the device.
    """
    graph = model.graph
    outputs = [output.name for output in graph.output]
    if outputs != ["x_new", "x0"]:
        return model
    rows = graph.output[0].type.tensor_type.shape.dim[0].dim_param
    axes = helper.make_tensor("magnitude axes", TensorProto.INT64, [3], [1, 2, 3])
    graph.initializer.append(axes)
    for name in outputs:
        graph.node.append(helper.make_node("Abs", [name], [f"|{name}|"], name=f"|{name}|"))
        summed = [f"|{name}|", axes.name], [f"Σ|{name}|"]
        graph.node.append(helper.make_node("ReduceSum", *summed, name=f"Σ|{name}|", keepdims=0))
    graph.node.append(helper.make_node("Add", [f"Σ|{name}|" for name in outputs], [MAGNITUDE], name=MAGNITUDE))
    graph.output.append(helper.make_tensor_value_info(MAGNITUDE, TensorProto.FLOAT, [rows]))
    return model


def described(model: onnx.ModelProto) -> Graph:
    """The inputs and outputs of an ONNX graph."""

    def tensor(value: onnx.ValueInfoProto) -> Tensor:
        kind = value.type.tensor_type
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        return Tensor(name=value.name, dtype=str(dtype), shape=[d.dim_value or -1 for d in kind.shape.dim])

    inputs, outputs = ([tensor(value) for value in values] for values in (model.graph.input, model.graph.output))
    return Graph(inputs=inputs, outputs=outputs, profiles=[])


def runtime_version() -> str:
    """ONNX Runtime's, whichever of its packages is installed."""
    for package in RUNTIMES:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    raise EngineError("onnxruntime is not installed")
