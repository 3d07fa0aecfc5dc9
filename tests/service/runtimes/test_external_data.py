"""A graph whose weights lie in a file beside it: verified with the bundle, tried, and run from memory."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from bundle.files import BundleError
from bundle.loading import load
from bundle.manifest import MANIFEST, STEP, WEIGHTS
from service.engine.denoise import first_step
from service.runtimes.cpu import OrtRuntime
from service.runtimes.sandbox import Sandbox
from tests.service.registry.graphs import external, write

SANDBOX = Sandbox(seconds=600.0, memory_bytes=4 * 2**30)


def with_weights(folder: Path, weights: bytes, graph: onnx.ModelProto | None = None) -> Path:
    """A bundle of x + weight, whose weight is in `step.data`; its manifest is right."""
    write(folder, graph or external(WEIGHTS[STEP]))
    (folder / WEIGHTS[STEP]).write_bytes(weights)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][WEIGHTS[STEP]] = {"sha256": hashlib.sha256(weights).hexdigest(), "bytes": len(weights)}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def test_the_weights_of_the_file_are_those_of_the_step(tmp_path: Path) -> None:
    bundle = load(with_weights(tmp_path / "good", np.float32(3).tobytes()))
    SANDBOX.check(bundle, rows=4)
    inputs = first_step(bundle, 4)
    x_new, x0 = OrtRuntime(bundle, threads=1).step(inputs)
    np.testing.assert_array_equal(x_new.array, x0.array + np.float32(3))


def test_weights_that_were_altered_are_found_at_loading_and_later(tmp_path: Path) -> None:
    folder = with_weights(tmp_path / "altered", np.float32(3).tobytes())
    bundle = load(folder)
    (folder / WEIGHTS[STEP]).write_bytes(np.float32(4).tobytes())
    for late in (lambda: load(folder), lambda: OrtRuntime(bundle, threads=1)):
        with pytest.raises(BundleError, match=r"^altered/step\.data: SHA-256 is "):
            late()


@pytest.mark.parametrize("key", ["offset", "length"])
@pytest.mark.parametrize("number", ["5", "-1", str(2**62), "x"])
def test_a_weight_that_lies_beyond_the_file_is_refused(key: str, number: str, tmp_path: Path) -> None:
    graph = external(WEIGHTS[STEP])
    for entry in graph.graph.initializer[0].external_data:
        if entry.key == key:
            entry.value = number
    bundle = load(with_weights(tmp_path / "beyond", np.float32(3).tobytes(), graph))
    with pytest.raises(BundleError, match=r"^beyond/step\.onnx: "):
        SANDBOX.check(bundle, rows=1)
