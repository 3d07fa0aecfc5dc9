"""Engines really built by TensorRT for RTX, with no GPU: for every shipped model, for four architectures at once."""

import json
import shutil
import subprocess
from pathlib import Path

import onnx
import pytest

from bundle import gpu_manifest
from bundle.gpu_manifest import MAGNITUDE, Tensor
from bundle.loading import Bundle, load, sha256
from bundle.manifest import STEP
from export.gpu_bundle import ARCHITECTURES, BUCKETS
from tests.conftest import REPOSITORY
from tests.gpu.conftest import Run, export

pytestmark = pytest.mark.usefixtures("gpu_environment")

BUNDLES = sorted(path.parent for path in REPOSITORY.glob("bundles/*/manifest.json"))
DTYPES = {"y": "int64"}


def copied(source: Path, folder: Path) -> Path:
    """The bundle without what may have been built into it."""
    names = ["manifest.json", *load(source).manifest.files]
    target = folder / source.name
    target.mkdir()
    for name in names:
        shutil.copy(source / name, target)
    return target


def expected_inputs(bundle: Bundle) -> list[Tensor]:
    state, z_dim = list(bundle.manifest.state_shape), bundle.manifest.z_dim
    shapes = {"x": state, "t": [], "y": [], "noise": state, "x0_prev": state, "coefficients": [8]}
    if z_dim:
        shapes["z"] = [z_dim]
    return [Tensor(name=n, dtype=DTYPES.get(n, "float32"), shape=[-1, *shape]) for n, shape in shapes.items()]


@pytest.mark.parametrize("source", BUNDLES, ids=lambda path: path.name)
def test_a_shipped_model_is_built_for_four_architectures_once(source: Path, tmp_path: Path) -> None:
    folder = copied(source, tmp_path)
    built = export(folder, "--target", "tensorrt-rtx")
    assert built.returncode == 0, built.stderr
    assert "/tensorrt-rtx: built, tensorrt-rtx 1." in built.stdout
    bundle = load(folder)
    target, engines = gpu_manifest.load(bundle)
    assert target == folder / "tensorrt-rtx"
    assert (engines.precision, tuple(engines.buckets), tuple(engines.architectures)) == ("fp16", BUCKETS, ARCHITECTURES)
    step = engines.graphs["step.engine"]
    state = [-1, *bundle.manifest.state_shape]
    outputs = {"x_new": state, "x0": state, MAGNITUDE: [-1]}
    assert sorted(step.inputs, key=str) == sorted(expected_inputs(bundle), key=str)
    assert step.outputs == [Tensor(name=n, dtype="float32", shape=shape) for n, shape in outputs.items()]
    if bundle.decode_file:
        images = Tensor(name="images", dtype="float32", shape=[-1, *bundle.manifest.shape])
        assert engines.graphs["decode.engine"].outputs == [images]
    for graph in engines.graphs.values():
        assert graph.profiles == [{t.name: [rows, *t.shape[1:]] for t in graph.inputs} for rows in BUCKETS]
    before = {path: path.stat().st_mtime_ns for path in target.iterdir()}
    again = export(folder, "--target", "tensorrt-rtx")
    assert "/tensorrt-rtx: unchanged, " in again.stdout
    assert {path: path.stat().st_mtime_ns for path in target.iterdir()} == before


LATENT = REPOSITORY / "bundles" / "latent"
SMALL = ["--target", "tensorrt-rtx", "--buckets", "1", "--architectures", "sm_89"]


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_a_precision_of_tensorrt_alone_is_built_too(precision: str, tmp_path: Path) -> None:
    folder = copied(LATENT, tmp_path)
    ended = export(folder, *SMALL, "--precision", precision)
    assert f", {precision}, 2 files" in ended.stdout, ended.stderr
    assert gpu_manifest.load(load(folder))[1].precision == precision


def with_another(folder: Path, operator: str) -> None:
    """Makes the first activation of the bundle's step another operator's."""
    model = onnx.load(folder / STEP)
    node = next(node for node in model.graph.node if node.op_type == "Sigmoid")
    node.op_type, node.name = operator, "the odd node"
    onnx.save(model, folder / STEP)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][STEP] = {"sha256": sha256(folder / STEP), "bytes": (folder / STEP).stat().st_size}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("operator", ["Bernoulli", "Frobnicate"], ids=["TensorRT lacks it", "nobody knows it"])
def test_a_node_that_cannot_be_built_is_named_and_nothing_is_left(operator: str, tmp_path: Path) -> None:
    folder = copied(LATENT, tmp_path)
    with_another(folder, operator)
    before = sorted(folder.iterdir())
    ended = export(folder, *SMALL, "--precision", "fp32")
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"./run export: {folder / STEP}: ")
    assert "the odd node" in ended.stderr
    assert operator in ended.stderr
    assert sorted(folder.iterdir()) == before


def test_an_engine_is_loaded_bound_and_run_by_calls_that_tensorrt_has(in_gpu_environment: Run, tmp_path: Path) -> None:
    """Mocks of the real classes stand for what needs a GPU: a name that they lack is an error."""
    folder = copied(LATENT, tmp_path)
    assert export(folder, *SMALL).returncode == 0
    ended = in_gpu_environment(Path(__file__).with_name("on_mocked_tensorrt.py"), folder)
    assert ended.returncode == 0, ended.stderr
    logged, last = ended.stdout.splitlines()
    assert "TensorRT's steps cannot be captured in a CUDA graph" in logged  # the mock said so once
    assert last == "ok"


LOADS = """
import sys
from pathlib import Path
from bundle import gpu_manifest
from bundle.files import BundleError
from bundle.loading import load
from service.runtimes.cuda.tensorrt import TensorRtNetwork
folder, engines = gpu_manifest.load(load(Path(sys.argv[1])))
try:
    TensorRtNetwork(None, folder / "step.engine", engines.model_copy(update={"version": sys.argv[2]}))
except BundleError as error:
    print(error)
"""


def test_an_engine_of_another_version_says_so_when_it_is_loaded(in_gpu_environment: Run, tmp_path: Path) -> None:
    folder = copied(LATENT, tmp_path)
    assert export(folder, *SMALL).returncode == 0
    engines = gpu_manifest.load(load(folder))[1]
    ended: subprocess.CompletedProcess[str] = in_gpu_environment("-c", LOADS, folder, "1.0.0.1")
    assert (
        f"step.engine: built by tensorrt_rtx_bindings 1.0.0.1, and here is {engines.version}: export it again"
        in ended.stdout
    )
