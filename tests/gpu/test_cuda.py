"""The real bindings of the driver and of ONNX Runtime, as far as they go without a GPU."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from service.runtimes.cuda.ort_cuda import provider_options
from tests.conftest import REPOSITORY, SHIPPED
from tests.gpu.conftest import Run

SOURCES = sorted((REPOSITORY / "service").rglob("*.cu"))


def test_the_real_bindings_drive_a_fake_driver_library(in_gpu_environment: Run, fake_libcuda: Path) -> None:
    ended = in_gpu_environment(Path(__file__).with_name("on_fake_libcuda.py"), SHIPPED, libraries=fake_libcuda)
    assert (ended.returncode, ended.stdout) == (0, "ok\n"), ended.stderr


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_120"])
def test_nvcc_compiles_every_cuda_source_where_it_is_there(architecture: str, tmp_path: Path) -> None:
    """NVRTC, which the service uses, compiles them in the test above, with or without nvcc."""
    assert SOURCES
    nvcc = shutil.which("nvcc", path=f"{os.environ['PATH']}:/usr/local/cuda/bin")
    for source in SOURCES if nvcc else []:
        command = [str(nvcc), "--cubin", f"-arch={architecture}", "--Werror=all-warnings", "-o", tmp_path / "out"]
        ended = subprocess.run([*command, source], capture_output=True, text=True)
        assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize(
    ("hidden", "message"), [(True, "finds no GPU"), (False, "cuInit: ")], ids=["no device", "no driver"]
)
def test_a_missing_gpu_is_an_error_at_start(
    in_gpu_environment: Run, fake_libcuda: Path, hidden: bool, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_NO_GPU", "1")
    libraries = fake_libcuda if hidden else ""
    ended = in_gpu_environment("-m", "service", "--device", "cuda", "--port", "0", libraries=libraries)
    assert ended.returncode == 2
    *_, line = ended.stderr.splitlines()
    assert line.startswith("./run serve: --device cuda: ")
    assert message in line


SESSION = """
import sys
from onnxruntime.capi import _pybind_state as C
session = C.InferenceSession(C.SessionOptions(), sys.argv[1], True, False)
session.initialize_session(["CUDAExecutionProvider"], [__import__("json").loads(sys.argv[2])], set())
"""
OPTIONS = {**provider_options(graphs=True, tf32=False), "user_compute_stream": "4096"}


def refusal(run: Run, hollow_cuda: Path, options: dict[str, str]) -> str:
    """What ONNX Runtime's own CUDA provider says of its options, over CUDA libraries that are hollow."""
    return run("-c", SESSION, SHIPPED / "step.onnx", json.dumps(options), libraries=hollow_cuda).stderr


def test_the_cuda_provider_takes_its_options_and_misses_the_gpu(in_gpu_environment: Run, hollow_cuda: Path) -> None:
    errors = refusal(in_gpu_environment, hollow_cuda, OPTIONS)
    assert errors.endswith("asked for cudaSetDevice"), errors


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        *(({name: "nonsense"}, f'Failed to parse provider option "{name}"') for name in OPTIONS),
        ({"no_such": "1"}, 'Unknown provider option: "no_such"'),
    ],
    ids=[*OPTIONS, "no_such"],
)
def test_the_cuda_provider_does_read_each_of_them(
    in_gpu_environment: Run, hollow_cuda: Path, change: dict[str, str], complaint: str
) -> None:
    assert complaint in refusal(in_gpu_environment, hollow_cuda, {**OPTIONS, **change})


FALLS_BACK = """
import sys
from pathlib import Path
import onnxruntime
from service.runtimes.cuda.driver import DriverError
from service.runtimes.cuda.ort_cuda import PROVIDER, open_session
assert PROVIDER in onnxruntime.get_available_providers()  # it says so here too, where there is no GPU
try:
    open_session(Path(sys.argv[1]), {})
except DriverError as error:
    print(error)
"""


def test_a_session_that_would_fall_back_to_the_cpu_is_an_error(in_gpu_environment: Run) -> None:
    ended = in_gpu_environment("-c", FALLS_BACK, SHIPPED / "step.onnx")
    assert ended.returncode == 0, ended.stderr
    assert "step.onnx: ONNX Runtime's CUDA provider does not load" in ended.stdout
