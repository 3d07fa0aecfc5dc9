"""`./run check-gpu` on a fake GPU: what it says of one that computes rightly, and of others that do not."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bundle import gpu_manifest
from bundle.loading import load
from export import accuracy, check_gpu
from service.runtimes import placement
from service.runtimes.cuda.driver import DriverError
from tests.conftest import REPOSITORY
from tests.gpu.fake import FakeDriver, InFakeMemory

Report = dict[str, Any]
Check = Callable[..., Report]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Runs the command over a folder with the latent model alone; the report, and its exit code as `code`."""
    driver = FakeDriver()
    built = shutil.ignore_patterns("cuda", "tensorrt*")
    shutil.copytree(REPOSITORY / "bundles" / "latent", tmp_path / "bundles" / "latent", ignore=built)
    monkeypatch.setattr(accuracy, "IMAGES", 2)
    monkeypatch.setattr(placement, "open_driver", lambda: driver)
    monkeypatch.setattr(InFakeMemory, "driver", driver, raising=False)

    def run(network: type[InFakeMemory] = InFakeMemory, *options: str) -> Report:
        monkeypatch.setattr(placement, "OrtCudaNetwork", network)
        report = tmp_path / "report.json"
        paths = ["--bundles", str(tmp_path / "bundles"), "--report", str(report)]
        monkeypatch.setattr("sys.argv", ["check-gpu", *paths, "--rounds", "2", *options])
        with pytest.raises(SystemExit) as ended:
            check_gpu.main()
        found: Report = json.loads(report.read_text())
        return {**found, "code": ended.value.code, "folder": tmp_path / "bundles" / "latent"}

    return run


def test_a_gpu_that_computes_rightly_passes_and_its_manifest_says_so(
    check: Check, capsys: pytest.CaptureFixture[str]
) -> None:
    report = check()
    assert (report["passed"], report["code"], report["device"]) == (True, 0, "a fake sm_00")
    by_target = {each["target"]: each for each in report["checks"]}
    assert "needs the package tensorrt-rtx-cu13" in by_target["tensorrt-rtx"]["not_tried"]
    assert "needs the package tensorrt-cu13" in by_target["tensorrt"]["not_tried"]
    found = by_target["cuda"]
    assert found["buckets_agree"] is found["rows_do_not_see_each_other"] is found["replay_is_plain_launches"] is True
    assert 0 < max(found["off_cpu_by_step"]) < 0.01
    assert len(found["off_cpu_by_step"]) == check_gpu.STORED
    assert [each["rows"] for each in found["speed"]] == [1, 2, 4, 8, 16, 32]
    for each in found["speed"]:
        assert each["images_per_s"] == pytest.approx(1000 * each["rows"] / (each["steps"] * each["ms"]))
    bundle = load(report["folder"])
    states = 2 * check_gpu.IMAGES * 4 * math.prod(bundle.manifest.state_shape)
    assert found["memory_bytes"] > states
    assert gpu_manifest.load(bundle)[1].buckets_agree is True
    said = capsys.readouterr().out
    assert "latent, cuda: passed" in said
    assert "all is well" in said


class OtherBits(InFakeMemory):
    """Every batch size rounds in its own way, a little."""

    def compute(self, inputs: dict[str, Any]) -> list[np.ndarray]:
        return [out + np.float32(1e-5) * len(inputs["x"]) for out in super().compute(inputs)]


def test_buckets_that_do_not_agree_are_no_failure_but_are_served_as_one(check: Check) -> None:
    report = check(OtherBits)
    assert report["passed"]
    made = gpu_manifest.load(load(report["folder"]))[1]
    assert made.buckets_agree is False
    assert placement.usable(made, 16) == [16]


class Leaks(InFakeMemory):
    """A row's result has something of the row beside it."""

    def compute(self, inputs: dict[str, Any]) -> list[np.ndarray]:
        return [out + np.float32(1e-4) * np.roll(out, 1, axis=0) for out in super().compute(inputs)]


class Off(InFakeMemory):
    """Far from what the CPU computes."""

    def compute(self, inputs: dict[str, Any]) -> list[np.ndarray]:
        return [out + np.float32(0.1) for out in super().compute(inputs)]


class Breaks(InFakeMemory):
    def compute(self, inputs: dict[str, Any]) -> list[np.ndarray]:
        raise DriverError("cuLaunchKernel: CUDA_ERROR_LAUNCH_FAILED")


@pytest.mark.parametrize(
    ("network", "told"),
    [
        (Leaks, lambda found: found["rows_do_not_see_each_other"] is False),
        (Off, lambda found: max(found["off_cpu_by_step"]) > 0.05),
        (Breaks, lambda found: found["error"] == "cuLaunchKernel: CUDA_ERROR_LAUNCH_FAILED"),
    ],
    ids=["rows see each other", "off", "breaks"],
)
def test_a_gpu_that_computes_wrongly_fails(
    check: Check, network: type[InFakeMemory], told: Callable[[Report], bool], capsys: pytest.CaptureFixture[str]
) -> None:
    report = check(network, "--targets", "cuda")
    (found,) = report["checks"]
    assert (report["passed"], report["code"], found["passed"]) == (False, 1, False)
    assert told(found)
    assert "latent, cuda: FAILED" in capsys.readouterr().out


def test_nothing_tried_is_no_success(check: Check) -> None:
    report = check(InFakeMemory, "--targets", "tensorrt")
    assert (report["passed"], report["code"]) == (False, 1)


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["check-gpu"])
    with pytest.raises(SystemExit, match="1"):
        check_gpu.main()
    assert capsys.readouterr().err.startswith("./run check-gpu: the packages of the extra gpu are not installed")
