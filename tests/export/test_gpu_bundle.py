"""`--target cuda` in full, and what every target shares: the tolerance, unchanged engines, refused options."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from bundle import gpu_manifest
from bundle.files import BundleError
from bundle.gpu_manifest import MAGNITUDE, Engines
from bundle.loading import Bundle, load
from export import accuracy
from export.__main__ import main
from export.gpu_bundle import BuildOptions, build, runtime_version, with_magnitude
from export.tensorrt_builder import EngineError
from service.engine.denoise import first_step
from service.runtimes.cpu import OrtRuntime
from tests.conftest import REPOSITORY

OPTIONS = BuildOptions("cuda", "fp16", buckets=[1, 4])


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "IMAGES", 4)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """The latent model, which has two graphs, with two steps by default."""
    folder = tmp_path / "latent"
    shutil.copytree(REPOSITORY / "bundles" / "latent", folder, ignore=shutil.ignore_patterns("cuda", "tensorrt*"))
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "recommended_steps": 2}))
    return load(folder)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_bundle_gets_its_engines_and_they_load(bundle: Bundle) -> None:
    engines, new = build(bundle, OPTIONS)
    assert new
    assert {path.name for path in (bundle.folder / "cuda").iterdir()} == {
        gpu_manifest.MANIFEST,
        "step.onnx",
        "decode.onnx",
    }
    assert gpu_manifest.load(bundle) == (bundle.folder / "cuda", engines)
    assert engines.buckets_agree is None
    assert set(engines.accuracy.by_solver) == set(bundle.family.SOLVERS)
    assert 0 < min(engines.accuracy.by_solver.values()) <= max(engines.accuracy.by_solver.values()) <= 0.01
    assert load(bundle.folder).manifest.digest == bundle.manifest.digest  # the bundle itself did not change


def test_the_same_options_build_nothing_and_others_do(bundle: Bundle) -> None:
    first, _ = build(bundle, OPTIONS)
    before = contents(bundle.folder)
    assert build(bundle, OPTIONS) == (first, False)
    assert contents(bundle.folder) == before
    for options in (BuildOptions("cuda", "fp16", buckets=[1, 8]), BuildOptions("cuda", "fp32", buckets=[1, 8])):
        engines, new = build(bundle, options)
        assert new
        assert engines.digest != first.digest


def test_a_damaged_engine_is_built_again_and_not_served(bundle: Bundle) -> None:
    build(bundle, OPTIONS)
    path = bundle.folder / "cuda" / "decode.onnx"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(BundleError, match=r"decode\.onnx: it has \d+ bytes"):
        gpu_manifest.load(bundle)
    assert build(bundle, OPTIONS)[1]
    assert path.read_bytes() == content


def test_images_with_too_large_an_error_are_refused_and_the_old_engines_stay(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(bundle, OPTIONS)
    before = contents(bundle.folder)
    monkeypatch.setattr(accuracy, "TOLERANCE", 1e-6)
    with pytest.raises(EngineError, match=r"in fp16 the images of solver 'ddim' differ .* more than 1e-06"):
        build(bundle, OPTIONS)
    assert contents(bundle.folder) == before
    assert build(bundle, BuildOptions("cuda", "fp32"))[0].accuracy.by_solver["ddim"] == 0


def test_images_that_are_not_numbers_are_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "images", lambda *_: np.full(3, np.nan, dtype=np.float32))
    with pytest.raises(EngineError, match="differ from those in fp32 by nan"):
        build(bundle, OPTIONS)
    assert not (bundle.folder / "cuda").exists()


def test_engines_of_another_export_of_the_bundle_are_not_served(bundle: Bundle) -> None:
    engines, _ = build(bundle, OPTIONS)
    engines.sources["step.onnx"] = "0" * 64
    engines.write(bundle.folder / "cuda")
    with pytest.raises(BundleError, match=r"of another step\.onnx: export it again"):
        gpu_manifest.load(bundle)


def test_the_error_for_a_bundle_without_engines_names_the_command(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=r"\./run export .*latent --target cuda"):
        gpu_manifest.load(bundle)


@pytest.mark.parametrize("content", ["", "{}", '{"format_version": 2}'])
def test_a_manifest_that_cannot_be_read_is_named(bundle: Bundle, content: str) -> None:
    (bundle.folder / "cuda").mkdir()
    (bundle.folder / "cuda" / gpu_manifest.MANIFEST).write_text(content)
    with pytest.raises(BundleError, match=r"cuda/engines\.json: "):
        gpu_manifest.load(bundle)


def test_measurements_do_not_change_the_digest_and_all_else_does(bundle: Bundle) -> None:
    engines, _ = build(bundle, OPTIONS)
    described = json.loads(engines.model_dump_json())
    for field, value in (("buckets_agree", True), ("graphs", {})):
        assert Engines.model_validate({**described, field: value}).digest == engines.digest
    deciding = {"version": "0", "precision": "fp32", "buckets": [1], "files": {}, "target": "tensorrt"}
    for field, value in deciding.items():
        assert Engines.model_validate({**described, field: value}).digest != engines.digest


def test_the_magnitude_is_finite_where_a_row_is(bundle: Bundle) -> None:
    model = with_magnitude(onnx.load(bundle.step_file))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = OrtRuntime(bundle, threads=1).graph_inputs(first_step(bundle, 4))
    inputs["x"][1, 0, 0, 0] = np.nan
    inputs["noise"][2, 0, 0, 0] = np.inf
    inputs["coefficients"][2, -1] = 1
    x, x0, magnitude = session.run(["x_new", "x0", MAGNITUDE], inputs)
    expected = np.abs(x).sum(axis=(1, 2, 3), dtype=np.float64) + np.abs(x0).sum(axis=(1, 2, 3), dtype=np.float64)
    np.testing.assert_allclose(magnitude[[0, 3]], expected[[0, 3]], rtol=1e-5)
    assert np.isfinite(magnitude).tolist() == [True, False, False, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target", "cuda", "--precision", "bf16"], "bf16 is for TensorRT"),
        (["--target", "cuda", "--architectures", "sm_90"], "for every architecture: do not name any"),
        (["--target", "cuda", "--buckets", "4,1"], "each larger than the one before: not [4, 1]"),
        (["--target", "cuda", "--buckets", "0,1"], "not [0, 1]"),
        (["--target", "tensorrt-rtx"], "--target tensorrt-rtx needs the package tensorrt-rtx-cu13-bindings"),
        ([], "say -o BUNDLE for a checkpoint, or --target for a bundle"),
        (["--target", "cuda", "-o", "there"], "say -o BUNDLE for a checkpoint, or --target for a bundle"),
        (["--target", "cuda", "--buckets", "many"], "invalid numbers value: 'many'"),
    ],
)
def test_options_that_do_not_go_together_are_an_error_that_names_them(
    bundle: Bundle,
    options: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["export", str(bundle.folder), *options])
    before = contents(bundle.folder)
    with pytest.raises(SystemExit):
        main()
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert contents(bundle.folder) == before


def test_the_command_prints_what_it_built(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["export", str(bundle.folder), "--target", "cuda"])
    for word in ("built", "unchanged"):
        main()
        assert f"latent/cuda: {word}, cuda {runtime_version()}, fp16, 2 files, " in capsys.readouterr().out
