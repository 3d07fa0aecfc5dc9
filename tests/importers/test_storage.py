"""`--storage float16`: half the file, and exactly the network whose large weights were rounded to float16."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from bundle.loading import Bundle, load
from bundle.manifest import STEP
from export.step_module import Wiring
from importers import __main__ as command
from importers.cards import Card
from importers.formats import Format
from importers.importer import load as load_model
from importers.problems import ImportProblem
from importers.reference import Reference, columns
from importers.storage import LEAST, halve
from service.engine.denoise import default_job, denoise
from service.runtimes.cpu import OrtRuntime
from service.runtimes.sandbox import Sandbox
from tests.importers import parity
from tests.importers.parity import assert_near, output

FILE = parity.path("id_cosine32.pt")
FLAGS = json.loads(parity.path("id_cosine32_config.json").read_text())["args"]
Import = Callable[..., Bundle]


@pytest.fixture(scope="module", name="imported")
def importer(tmp_path_factory: pytest.TempPathFactory) -> Import:
    folder = tmp_path_factory.mktemp("storage")
    (folder / "card.json").write_text(json.dumps({"format": "improved-diffusion", "settings": FLAGS}))

    def run(name: str, *options: str) -> Bundle:
        arguments = [str(FILE), "-o", str(folder / name), "--card", str(folder / "card.json"), *options]
        command.run(command.parser().parse_args(arguments))
        return load(folder / name)

    return run


@pytest.fixture(scope="module")
def half(imported: Import) -> Bundle:
    return imported("half", "--storage", "float16")


def network_of(bundle: Bundle, x: Any, t: Any) -> Any:
    """`out` of the bundle's network: x_new, where a step has T = 1 and nothing else."""
    reference = Reference(bundle, Wiring(), {})
    return reference.step(x, columns(x_from_out=1.0), np.asarray(t, dtype=np.float32))[0]


def test_float16_takes_half_the_file_and_is_the_network_of_rounded_weights(imported: Import, half: Bundle) -> None:
    whole = imported("whole")
    sizes = [(bundle.folder / STEP).stat().st_size for bundle in (whole, half)]
    assert 0.5 <= sizes[1] / sizes[0] <= 0.56
    assert half.manifest.digest != whole.manifest.digest
    assert [bundle.manifest.checkpoint["storage"] for bundle in (whole, half)] == ["float32", "float16"]

    model = load_model(FILE, Card(format=Format.IMPROVED, settings=FLAGS))
    io = parity.arrays("id_cosine32_io.npz")
    for parameter in model.network.parameters():
        if parameter.numel() >= LEAST:
            parameter.copy_(parameter.half().float())
    assert_near(network_of(half, io["x"], io["t"]), output(model, io["x"], io["t"])[:, : model.shape[0]])


def test_the_report_states_what_rounding_changes(half: Bundle) -> None:
    checkpoint = half.manifest.checkpoint
    before, after = checkpoint["before_rounding"]["parity_report"], checkpoint["parity_report"]
    assert [each["step"] for each in before] == [each["step"] for each in after]
    assert max(each["rms"] for each in before) < 1e-5 < 1e-4 < max(each["rms"] for each in after)
    assert half.manifest.parity.largest_difference <= half.manifest.parity.tolerance


def test_it_passes_the_trial_and_is_sampled_in_float32(half: Bundle) -> None:
    Sandbox(seconds=600.0, memory_bytes=4 * 2**30).check(half, rows=4)
    images = denoise([default_job(half, steps=2, n=2)], OrtRuntime(half, threads=1), max_batch=2)
    assert images.dtype == np.float32
    alone = denoise([default_job(half, steps=2, n=2)], OrtRuntime(half, threads=1), max_batch=1)
    np.testing.assert_array_equal(images, alone)


def test_recorded_outputs_have_the_tolerance_of_the_storage(imported: Import, tmp_path: Path) -> None:
    io = parity.arrays("id_cosine32_io.npz")
    np.savez(tmp_path / "reference.npz", x=io["x"], t=io["t"], out=io["out"])
    reference = ["--storage", "float16", "--reference", str(tmp_path / "reference.npz")]
    checkpoint = imported("compared", *reference).manifest.checkpoint
    before, after = checkpoint["before_rounding"]["reference"], checkpoint["reference"]
    assert (before["tolerance"], after["tolerance"]) == (1e-5, 2e-2)
    assert before["comparisons"][0]["rms"] < 1e-5 < after["comparisons"][0]["rms"]
    with pytest.raises(ImportProblem, match="1 of 1 comparisons are off"):
        imported("strict", *reference, "--tolerance", "1e-5")


def test_a_weight_beyond_float16_is_refused() -> None:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [LEAST], [70000.0] * LEAST)
    with pytest.raises(ImportProblem, match="float16 cannot hold 7e\\+04, a weight of w"):
        halve(onnx.ModelProto(graph=onnx.GraphProto(initializer=[weight])))


def test_small_tensors_and_whole_numbers_stay() -> None:
    small = helper.make_tensor("small", TensorProto.FLOAT, [2], [0.1, 0.2])
    whole = helper.make_tensor("whole", TensorProto.INT64, [LEAST], [7] * LEAST)
    model = onnx.ModelProto(graph=onnx.GraphProto(initializer=[small, whole]))
    before = model.SerializeToString()
    halve(model)
    assert model.SerializeToString() == before
