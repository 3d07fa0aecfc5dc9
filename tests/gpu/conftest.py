"""What the tests of the GPU's environment share. They need a C compiler, and fail without one."""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

Run = Callable[..., subprocess.CompletedProcess[str]]


def export(*arguments: object) -> subprocess.CompletedProcess[str]:
    """`./run export`, in the environment that its arguments ask for."""
    return subprocess.run([REPOSITORY / "run", "export", *map(str, arguments)], capture_output=True, text=True)


@pytest.fixture(scope="session")
def gpu_environment() -> Path:
    """The folder of the environment with TensorRT, onnxruntime-gpu and cuda-bindings, made on first use."""
    ended = subprocess.run([REPOSITORY / "run", "check-gpu", "--help"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return REPOSITORY / ".venv-gpu"


@pytest.fixture(scope="session")
def in_gpu_environment(gpu_environment: Path) -> Run:
    """Runs Python there, with a folder of libraries that the loader searches first."""

    def run(*arguments: object, libraries: Path | str = "") -> subprocess.CompletedProcess[str]:
        changes = {"PYTHONPATH": str(REPOSITORY), "LD_LIBRARY_PATH": str(libraries), "CUDA_VISIBLE_DEVICES": ""}
        command = [str(gpu_environment / "bin" / "python"), *map(str, arguments)]
        return subprocess.run(command, env={**os.environ, **changes}, capture_output=True, text=True)

    return run


def compile_library(source: Path, target: Path) -> None:
    """Its symbols' version is its name, as in NVIDIA's."""
    named = ["-Wl,--default-symver", f"-Wl,-soname,{target.name}"]
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", *named, "-o", target, source], check=True)


@pytest.fixture(scope="session")
def fake_libcuda(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the fake driver library."""
    folder = tmp_path_factory.mktemp("libcuda")
    compile_library(Path(__file__).with_name("libcuda.c"), folder / "libcuda.so.1")
    return folder


@pytest.fixture(scope="session")
def hollow_cuda(gpu_environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every CUDA library that ONNX Runtime's provider links, whose functions end the process."""
    folder = tmp_path_factory.mktemp("hollow")
    (provider,) = gpu_environment.glob("lib/python*/site-packages/onnxruntime/capi/libonnxruntime_providers_cuda.so")
    listed = subprocess.run(["nm", "-D", "--undefined-only", provider], capture_output=True, text=True, check=True)
    needed = subprocess.run(["readelf", "-d", provider], capture_output=True, text=True, check=True).stdout
    functions: dict[str, set[str]] = {library: set() for library in re.findall(r"\[(libcu.*)\]", needed)}
    for line in listed.stdout.splitlines():
        name, _, library = line.split()[-1].partition("@")
        if library in functions:
            functions[library].add(name)
        elif name.startswith("cuTensorMap"):  # the driver's
            functions["libcuda.so.1"].add(name)
    for library, names in functions.items():
        source = folder / f"{library}.c"
        lines = ["#include <stdio.h>", "#include <unistd.h>"]
        for name in sorted(names):
            ends = "" if name.startswith("__") else f'fputs("asked for {name}", stderr); _exit(35);'  # not as it loads
            lines.append(f"int {name}(void) {{ {ends} return 0; }}")
        source.write_text("\n".join(lines) + "\n")
        compile_library(source, folder / library)
    return folder
