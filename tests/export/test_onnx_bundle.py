"""The export: the graph is the module, and the shipped bundles are the shipped checkpoints."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from bundle.loading import Bundle, load
from bundle.manifest import DECODE, ENCODE, MANIFEST, SHARED, STEP
from export import onnx_bundle as export_bundle
from export.onnx_bundle import BATCH_SIZES, ExportError, export, random_inputs
from export.step_module import PLAIN, DecodeModule, StepModule
from models import checkpoint, fitted
from models.checkpoint import Card
from models.ddim.loss import SCHEDULE
from service.engine.denoise import default_job
from service.engine.jobs import Batch
from service.engine.runtime import HostStates
from service.runtimes.cpu import OrtRuntime
from tests.conftest import REPOSITORY, step_arrays

pytestmark = pytest.mark.usefixtures("one_thread")

FAMILIES: dict[str, dict[str, Any]] = {
    "ddim": {"noise_schedule": SCHEDULE, "network": {"channels": [8, 32]}},
    "vdm": {
        "noise_schedule": {"gamma": np.linspace(-13.3, 5, 1001).tolist()},
        "network": {"channels": [8, 32], "fourier": True},
    },
    "ddgan": {
        "noise_schedule": {"alphas_cumprod": [0.5, 0.1, 0.01, 0.001]},
        "network": {"channels": [8, 32], "latent": 5},
    },
    "latent": {
        "noise_schedule": {**SCHEDULE, "clip": 4.0},
        "network": {"state_shape": [3, 4, 4], "width": 8, "tokens_width": 16, "blocks": 2},
    },
}


def write_checkpoint(folder: Path, family: str) -> Path:
    card = Card(
        name=f"tiny-{family}",
        family=family,
        shape=(1, 16, 16),
        classes=["a", "b"],
        recommended_steps=2,
        training={"seed": 0},
        **FAMILIES[family],
    )
    torch.manual_seed(0)
    checkpoint.save(folder, card, card.build().state_dict())
    return folder


@pytest.fixture(scope="module", params=FAMILIES)
def exported(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest, one_thread: None
) -> tuple[Path, Path]:
    """A checkpoint and its bundle."""
    folder = tmp_path_factory.mktemp(request.param)
    source = write_checkpoint(folder / "checkpoint", request.param)
    export(source, folder / "bundle")
    return source, folder / "bundle"


def test_a_bundle_loads_and_says_where_it_is_from(exported: tuple[Path, Path]) -> None:
    source, target = exported
    manifest = load(target).manifest
    graph = onnx.load(target / STEP)
    assert manifest.opset == graph.opset_import[0].version
    assert 0 < manifest.parity.largest_difference <= manifest.parity.tolerance
    assert manifest.checkpoint["sha256"] == export_bundle.sha256(source / checkpoint.WEIGHTS)
    assert manifest.checkpoint["training"] == {"seed": 0}
    assert {path.name for path in target.iterdir()} == {MANIFEST, *manifest.files}
    assert set(manifest.files) == {
        *([STEP, DECODE, ENCODE] if manifest.family == "latent" else [STEP]),
        SHARED,
    }


def test_the_graph_is_dynamic_in_the_batch_axis_only(exported: tuple[Path, Path]) -> None:
    graph = onnx.load(exported[1] / STEP).graph
    for value in [*graph.input, *graph.output]:
        first, *rest = value.type.tensor_type.shape.dim
        assert first.dim_param
        assert not first.dim_value
        assert all(dimension.dim_value for dimension in rest)
    names = {value.name for value in graph.input}
    assert names - {"z"} == {"x", "t", "y", "noise", "x0_prev", "coefficients"}
    assert [value.name for value in graph.output] == ["x_new", "x0"]


@pytest.mark.parametrize("rows", [1, 3, 32])
def test_the_graph_computes_what_the_module_does(exported: tuple[Path, Path], rows: int) -> None:
    source, target = exported
    card, network = checkpoint.load(source)
    inputs = random_inputs(card, rows, seed=99)
    with torch.no_grad():
        expected = StepModule(network)(*map(torch.from_numpy, inputs.values()))
    for actual, output in zip(step_arrays(OrtRuntime(load(target), threads=1), inputs), expected, strict=True):
        np.testing.assert_allclose(actual, output.numpy(), atol=1e-4)


@pytest.mark.parametrize("rows", [1, 3, 32])
def test_the_images_are_what_the_network_decodes(exported: tuple[Path, Path], rows: int) -> None:
    source, target = exported
    card, network = checkpoint.load(source)
    x = np.random.default_rng(0).standard_normal((rows, *card.state_shape), dtype=np.float32)
    images = OrtRuntime(load(target), threads=1).decode(HostStates(x))
    assert images.shape == (rows, *card.shape)
    if card.decodes:
        with torch.no_grad():
            expected = DecodeModule(network)(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(images, expected, atol=1e-4)
    else:
        np.testing.assert_array_equal(images, x)


def test_the_encoder_is_pytorchs_and_the_same_for_each_image_alone(exported: tuple[Path, Path]) -> None:
    card, network = checkpoint.load(exported[0])
    bundle = load(exported[1])
    runtime = OrtRuntime(bundle, threads=1)
    images = np.random.default_rng(0).uniform(-1, 1, (3, *card.shape)).astype(np.float32)
    assert bundle.encodes == card.decodes
    for image in images:
        expected = image
        if card.decodes:
            with torch.no_grad():
                expected = network.encode(torch.from_numpy(image[None]))[0].numpy()  # type: ignore[operator]
        assert runtime.encode(image).shape == card.state_shape
        np.testing.assert_allclose(runtime.encode(image), expected, atol=1e-4)


@pytest.mark.parametrize("change", [0.1, np.nan])
def test_a_graph_that_differs_from_pytorch_is_refused_and_the_old_bundle_stays(
    exported: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: float
) -> None:
    source, target = tmp_path / "checkpoint", tmp_path / "bundle"
    shutil.copytree(exported[1], target)
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    graphs = {graph.graph.output[0].name: graph for graph in map(onnx.load, target.glob("*.onnx"))}
    card, network = checkpoint.load(exported[0])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(change)
    checkpoint.save(source, card, network.state_dict())
    monkeypatch.setattr(export_bundle, "trace", lambda _module, _inputs, outputs: graphs[outputs[0]])
    with pytest.raises(ExportError, match="differs from PyTorch by"):
        export(source, target)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint", "bundle"}


# --- what is shipped -----------------------------------------------------------------------------------------------

CHECKPOINTS = sorted(path.parent for path in REPOSITORY.glob("checkpoints/*/model.json"))


def shipped_pair(folder: Path) -> tuple[Card, nn.Module, Bundle]:
    return *checkpoint.load(folder), load(REPOSITORY / "bundles" / folder.name)


@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda path: path.name)
def test_a_shipped_bundle_is_its_checkpoint(folder: Path) -> None:
    card, network, bundle = shipped_pair(folder)
    assert bundle.manifest.checkpoint["sha256"] == export_bundle.sha256(folder / checkpoint.WEIGHTS)
    trained = {key: value for key, value in bundle.manifest.noise_schedule.items() if key != fitted.TABLES}
    assert json.loads(json.dumps(card.noise_schedule)) == trained
    module, runtime = StepModule(network), OrtRuntime(bundle, threads=2)
    for rows in BATCH_SIZES:
        inputs = random_inputs(card, rows, seed=100 + rows)
        with torch.no_grad():
            expected = module(*map(torch.from_numpy, inputs.values()))
        for actual, output in zip(step_arrays(runtime, inputs), expected, strict=True):
            assert np.abs(actual - output.numpy()).max() <= bundle.manifest.parity.tolerance


@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda path: path.name)
def test_every_step_of_a_shipped_bundles_trajectory_is_its_checkpoints(folder: Path) -> None:
    _, network, bundle = shipped_pair(folder)
    module, runtime = StepModule(network), OrtRuntime(bundle, threads=2)
    images = default_job(bundle, steps=min(20, bundle.max_steps), seed=1, label=0, n=4).images
    while not images[0].finished:
        inputs = Batch(images).inputs().arrays()
        inputs["coefficients"] = inputs["coefficients"][:, : PLAIN.columns]
        with torch.no_grad():
            expected = module(*map(torch.from_numpy, inputs.values()))
        x, x0 = step_arrays(runtime, inputs)
        for actual, output in zip((x, x0), expected, strict=True):
            assert np.abs(actual - output.numpy()).max() <= bundle.manifest.parity.tolerance
        for image, state, clean in zip(images, x, x0, strict=True):
            image.advance(state, clean)


@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda path: path.name)
def test_a_shipped_model_is_small(folder: Path) -> None:
    _, network = checkpoint.load(folder)
    denoiser = [weight for name, weight in network.named_parameters() if not name.startswith(("encoder", "decoder"))]
    assert sum(weight.numel() for weight in denoiser) <= 10_500_000
    assert max(path.stat().st_size for path in (REPOSITORY / "bundles" / folder.name).iterdir()) <= 17e6


def test_all_shipped_weights_are_at_most_160_mb() -> None:
    """Files of equal content count once, as the repository keeps them once."""
    files = [*REPOSITORY.glob("checkpoints/**/*.safetensors"), *REPOSITORY.glob("bundles/*/*.*")]
    sizes = {export_bundle.sha256(path): path.stat().st_size for path in files}
    assert sum(sizes.values()) <= 160e6


def test_every_shipped_bundle_has_its_checkpoint_and_serves_its_default_request() -> None:
    assert CHECKPOINTS
    bundles = sorted(path.parent for path in REPOSITORY.glob("bundles/*/manifest.json"))
    assert [path.name for path in bundles] == [path.name for path in CHECKPOINTS]
    for path in bundles:
        bundle = load(path)
        assert default_job(bundle).steps == bundle.manifest.recommended_steps
