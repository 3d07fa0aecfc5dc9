"""Builds a bundle's engines: converts its graphs to a precision, checks the images' error, and builds for a target."""

import os
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
from export import accuracy
from export.precision import convert
from export.replacement import replacing
from export.tensorrt_builder import FLAVOURS, TIMING_CACHE, EngineError, TensorRt

BUCKETS = (1, 2, 4, 8, 16, 32)
ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_120")
Models = Mapping[str, onnx.ModelProto]  # by file
RUNTIMES = ("onnxruntime-gpu", "onnxruntime")


@dataclass(frozen=True)
class BuildOptions:
    """What to build. Raises EngineError for options that do not go together."""

    target: Target
    precision: Precision = "fp16"
    buckets: Sequence[int] = BUCKETS
    architectures: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.buckets or min(self.buckets) < 1 or list(self.buckets) != sorted(set(self.buckets)):
            raise EngineError(f"buckets are batch sizes, each larger than the one before: not {list(self.buckets)}")
        if self.target not in FLAVOURS and self.architectures:
            raise EngineError(f"--target {self.target} is for every architecture: do not name any")
        if self.target == "cuda" and self.precision == "bf16":
            raise EngineError("bf16 is for TensorRT; --target cuda takes fp32, tf32 or fp16")


def build(bundle: Bundle, options: BuildOptions) -> tuple[Engines, bool]:
    """The bundle's engines in its folder TARGET, and whether this call built them.

    Engines that exist, built from the same files by the same version, are kept. Raises EngineError, and keeps the old
    ones, if a graph cannot be converted or built, or if its images' error exceeds the tolerance.
    """
    folder = bundle.folder / options.target
    builder = TensorRt(options.target) if options.target in FLAVOURS else None
    if builder is not None:
        builder.check(options.architectures)
    inputs = {
        "target": options.target,
        "version": builder.version if builder else runtime_version(),
        "precision": options.precision,
        "buckets": list(options.buckets),
        "architectures": list(options.architectures),
        "sources": {name: file.sha256 for name, file in bundle.manifest.files.items()},
    }
    if (existing := unchanged(folder, inputs)) is not None:
        return existing, False
    with replacing(folder, lambda path: path.suffix in (".onnx", ".engine", ".json")) as partial:
        models = {name: converted(bundle.folder / name, options.precision, builder) for name in bundle.graphs}
        measured = within_tolerance(bundle, models, options.precision)
        built = [build_file(bundle, name, model, options, builder, partial) for name, model in models.items()]
        listed = {path.name: File(sha256=sha256(path), bytes=path.stat().st_size) for path, _ in built}
        graphs = {path.name: graph for path, graph in built}
        manifest = Engines.model_validate({**inputs, "files": listed, "graphs": graphs, "accuracy": measured})
        manifest.write(partial)
    return manifest, True


def unchanged(folder: Path, inputs: Mapping[str, object]) -> Engines | None:
    """The engines in the folder, if they are complete and were built from these inputs; else None."""
    try:
        existing = gpu_manifest.read(folder)
        for name, file in existing.files.items():
            files.check(folder / name, folder.parent, file.sha256, file.bytes)
    except BundleError:
        return None
    same = existing.model_dump(include=set(inputs)) == inputs
    return existing if same and existing.accuracy.tolerance == accuracy.TOLERANCE else None


def converted(path: Path, precision: Precision, builder: TensorRt | None) -> onnx.ModelProto:
    """The graph in `precision`. Raises EngineError naming the node that ONNX, or TensorRT, does not know or allow."""
    try:
        model = convert(with_magnitude(onnx.load(path)), precision)
        if builder is not None:
            builder.parse(model.SerializeToString())
        return model
    except (DecodeError, EngineError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise EngineError(f"{path}: {error}") from error


def within_tolerance(bundle: Bundle, models: Models, precision: Precision) -> gpu_manifest.Accuracy:
    """The accuracy of the converted graphs. Raises EngineError if an error exceeds the tolerance, or is NaN."""
    with tempfile.TemporaryDirectory() as folder:
        low = accuracy.emulated(bundle, models, precision, Path(folder))
        measured = accuracy.measure(bundle, low, threads=os.cpu_count() or 1)
    for solver, error in measured.by_solver.items():
        if not error <= measured.tolerance:
            raise EngineError(
                f"in {precision} the images of solver {solver!r} differ from those in fp32 by {error:.4f} "
                f"(root mean square), more than {measured.tolerance}"
            )
    return measured


def build_file(
    bundle: Bundle, name: str, model: onnx.ModelProto, options: BuildOptions, builder: TensorRt | None, folder: Path
) -> tuple[Path, Graph]:
    """Writes one of the converted graphs, or its engine, into `folder`. Raises EngineError naming the graph."""
    content = model.SerializeToString()
    if builder is None:
        (folder / name).write_bytes(content)
        return folder / name, described(model)
    try:
        plan, graph = builder.build(
            content,
            precision=options.precision,
            buckets=options.buckets,
            architectures=options.architectures,
            timing_cache=bundle.folder / f"{options.target}.{TIMING_CACHE}",
        )
    except EngineError as error:
        raise EngineError(f"{bundle.folder / name}: {error}") from error
    if (graph.inputs, graph.outputs) != ((expected := described(model)).inputs, expected.outputs):
        raise EngineError(f"{bundle.folder / name}: TensorRT sees other inputs and outputs: {graph}, not {expected}")
    path = (folder / name).with_suffix(".engine")
    path.write_bytes(plan)
    return path, graph


def with_magnitude(model: onnx.ModelProto) -> onnx.ModelProto:
    """A step graph gets one more output, `magnitude` (rows,): Σ|x_new| + Σ|x0| of each row. Others stay as they are.

    These four bytes a row show whether all its numbers are finite, so the row itself can stay on the device.
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
        sum_of = f"Σ|{name}|"
        graph.node.append(helper.make_node("ReduceSum", [f"|{name}|", axes.name], [sum_of], name=sum_of, keepdims=0))
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
    """ONNX Runtime's, from whichever of its packages is installed. Raises EngineError if none is."""
    for package in RUNTIMES:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    raise EngineError("onnxruntime is not installed")
