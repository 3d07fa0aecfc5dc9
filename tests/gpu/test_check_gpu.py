"""`./run check-gpu` on a fake GPU: its report on one that computes rightly, and on others that do not."""

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
from service.runtimes import choice
from service.runtimes.cuda.driver import DriverError
from tests.conftest import REPOSITORY
from tests.gpu.fake import FakeDriver, InFakeMemory

Report = dict[str, Any]
Check = Callable[..., Report]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Runs the command over a folder with the latent model alone; gives the report, and the exit code as `code`."""
    driver = FakeDriver()
    built = shutil.ignore_patterns("cuda", "tensorrt*")
    shutil.copytree(REPOSITORY / "bundles" / "latent", tmp_path / "bundles" / "latent", ignore=built)
    monkeypatch.setattr(accuracy, "IMAGES", 2)
    monkeypatch.setattr(choice, "open_driver", lambda: driver)
    monkeypatch.setattr(InFakeMemory, "driver", driver, raising=False)

    def run(network: type[InFakeMemory] = InFakeMemory, *options: str) -> Report:
        monkeypatch.setattr(choice, "OrtCudaNetwork", network)
        report = tmp_path / "report.json"
        paths = ["--bundles", str(tmp_path / "bundles"), "--report", str(report)]
        monkeypatch.setattr("sys.argv", ["check-gpu", *paths, "--rounds", "2", *options])
        with pytest.raises(SystemExit) as ended:
            check_gpu.main()
        content: Report = json.loads(report.read_text())
        return {**content, "code": ended.value.code, "folder": tmp_path / "bundles" / "latent"}

    return run


def test_a_gpu_that_computes_rightly_passes_and_its_manifest_says_so(
    check: Check, capsys: pytest.CaptureFixture[str]
) -> None:
    report = check()
    assert (report["passed"], report["code"], report["device"]) == (True, 0, "a fake sm_00")
    by_target = {result["target"]: result for result in report["checks"]}
    assert "needs the package tensorrt-rtx-cu13-bindings" in by_target["tensorrt-rtx"]["not_tried"]
    assert "needs the package tensorrt-cu13" in by_target["tensorrt"]["not_tried"]
    cuda = by_target["cuda"]
    assert cuda["buckets_agree"] is cuda["rows_do_not_see_each_other"] is cuda["replay_is_plain_launches"] is True
    assert 0 < max(cuda["off_cpu_by_step"]) < 0.01
    assert len(cuda["off_cpu_by_step"]) == check_gpu.STORED
    assert [timing["rows"] for timing in cuda["speed"]] == [1, 2, 4, 8, 16, 32]
    for timing in cuda["speed"]:
        assert timing["images_per_s"] == pytest.approx(1000 * timing["rows"] / (timing["steps"] * timing["ms"]))
    bundle = load(report["folder"])
    states = 2 * check_gpu.IMAGES * 4 * math.prod(bundle.manifest.state_shape)
    assert cuda["memory_bytes"] > states
    assert gpu_manifest.load(bundle)[1].buckets_agree is True
    output = capsys.readouterr().out
    assert "latent, cuda: passed" in output
    assert ": all checks passed" in output


class OtherBits(InFakeMemory):
    """Every batch size rounds in its own way, a little."""

    def compute(self, inputs: dict[str, Any]) -> list[np.ndarray]:
        return [out + np.float32(1e-5) * len(inputs["x"]) for out in super().compute(inputs)]


def test_buckets_that_do_not_agree_are_no_failure_but_are_served_as_one(check: Check) -> None:
    report = check(OtherBits)
    assert report["passed"]
    engines = gpu_manifest.load(load(report["folder"]))[1]
    assert engines.buckets_agree is False
    assert choice.usable(engines, 16) == [16]


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
    ("network", "names_the_fault"),
    [
        (Leaks, lambda result: result["rows_do_not_see_each_other"] is False),
        (Off, lambda result: max(result["off_cpu_by_step"]) > 0.05),
        (Breaks, lambda result: result["error"] == "cuLaunchKernel: CUDA_ERROR_LAUNCH_FAILED"),
    ],
    ids=["rows see each other", "off", "breaks"],
)
def test_a_gpu_that_computes_wrongly_fails(
    check: Check,
    network: type[InFakeMemory],
    names_the_fault: Callable[[Report], bool],
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = check(network, "--targets", "cuda")
    (result,) = report["checks"]
    assert (report["passed"], report["code"], result["passed"]) == (False, 1, False)
    assert names_the_fault(result)
    assert "latent, cuda: FAILED" in capsys.readouterr().out


def test_nothing_tried_is_no_success(check: Check) -> None:
    report = check(InFakeMemory, "--targets", "tensorrt")
    assert (report["passed"], report["code"]) == (False, 1)


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["check-gpu"])
    with pytest.raises(SystemExit, match="1"):
        check_gpu.main()
    assert capsys.readouterr().err.startswith("./run check-gpu: the packages of locks/gpu.txt are not installed")
