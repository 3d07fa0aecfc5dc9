"""What the tests share: a toy model that needs no PyTorch, and the shipped one."""

import hashlib
import inspect
import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import structlog
from hypothesis import HealthCheck, settings

from bundle.loading import Bundle, load
from bundle.manifest import STEP
from models.schedules import cosine_schedule
from models.step import Step, update
from service.engine.runtime import Array, HostStates, Runtime, StepInputs

REPOSITORY = Path(__file__).parent.parent
SHIPPED = REPOSITORY / "bundles" / "ddim"
CHECKPOINT = REPOSITORY / "checkpoints" / "ddim"
SHAPE = (1, 4, 4)
IN_COLOUR = {"shape": (3, 4, 4), "state_shape": (3, 4, 4)}  # of a toy's manifest
WITHIN_S = 600  # for whatever is waited for: far longer than anything takes, it ends what hangs, also on a slow machine
# For a server of real models: whatever work is predicted, as on a slow machine, nothing is refused for it.
PATIENT = ["--max-backlog-s", "1e6", "--max-request-s", "1e6"]

# The same examples every time, and no clock.
settings.register_profile("same", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("same")
# httpx gives up after 5 s, which is little on a machine that does much else.
for each in ("connect", "read", "write", "pool"):
    setattr(inspect.signature(httpx.get).parameters["timeout"].default, each, WITHIN_S)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, and by the servers that tests start too


class ToyRuntime:
    """A runtime whose network is a line of NumPy. It notes the engine's steps, and fails where it is told to."""

    def __init__(self) -> None:
        self.batches: list[int] = []  # rows of each step after the warm-up
        self.fail_on: set[int] = set()  # labels

    def step(self, inputs: StepInputs) -> tuple[HostStates, HostStates]:
        if on_engine():
            self.batches.append(len(inputs.x))
        if self.fail_on & set(inputs.y.tolist()):
            raise RuntimeError("the toy broke")
        x, x0 = toy_step(inputs.arrays())
        return HostStates(x), HostStates(x0)

    def decode(self, states: HostStates) -> Array:
        return states.array

    fetch = decode

    def encode(self, image: Array) -> Array:
        return image


def on_engine() -> bool:
    """Whether this is one of the engine's workers: the warm-up is not."""
    return threading.current_thread().name.startswith("engine")


def toy_step(inputs: Mapping[str, Any]) -> tuple[Array, Array]:
    """The step graph's contract in NumPy, row by row, for a network tanh(x/2 + t/1000 + y/10)."""
    rows = [{name: values[i] for name, values in inputs.items()} for i in range(len(inputs["x"]))]
    outs = [toy_network(row) for row in rows]
    if "pair" in inputs:
        weights, pair = inputs["weights"], inputs["pair"]
        outs = [own * outs[i] + other * outs[pair[i]] for i, (own, other) in enumerate(weights)]
    x, x0 = zip(*map(toy_row, rows, outs), strict=True)
    return np.stack(x), np.stack(x0)


def toy_network(row: Mapping[str, Any]) -> Array:
    out: Array = np.tanh(row["x"] / 2 + row["t"] / 1000 + row["y"] / 10).astype(np.float32)
    return out


def step_arrays(runtime: Runtime, inputs: Mapping[str, Any]) -> tuple[Array, Array]:
    """A step on a runtime of the host, with arrays in and out."""
    x, x0 = runtime.step(StepInputs(**inputs))
    assert isinstance(x, HostStates)
    assert isinstance(x0, HostStates)
    return x.array, x0.array


def toy_row(row: Mapping[str, Any], out: Array) -> tuple[Array, Array]:
    k = Step(row["t"], *row["coefficients"])
    x_new, x0 = update(k, row["x"], out, row["x0_prev"], row["noise"])
    return x_new.astype(np.float32), x0.astype(np.float32)


def write_bundle(folder: Path, **changes: Any) -> Path:
    """A bundle with a step file that only a toy can run; `changes` go into its manifest."""
    folder.mkdir(parents=True)
    content = b"\x08\x0a"  # a graph's version, and nothing else
    (folder / STEP).write_bytes(content)
    manifest = {
        "format_version": 1,
        "name": "toy",
        "family": "ddim",
        "shape": SHAPE,
        "state_shape": SHAPE,
        "classes": ["zero", "one", "2"],
        "latent": 0,
        "noise_schedule": {"alphas_cumprod": cosine_schedule(1000).tolist()},
        "recommended_steps": 5,
        "opset": 20,
        "dtype": "float32",
        "files": {STEP: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}},
        "parity": {"tolerance": 1e-4, "largest_difference": 0.0, "batch_sizes": [1]},
        "checkpoint": {},
        "measured": {},
        **changes,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(autouse=True, scope="session")
def no_settings_from_outside() -> Iterator[None]:
    """The service's settings are the tests' own, whatever the shell's environment says."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("TRILEMMA_")]:
            patch.delenv(name)
        yield


@pytest.fixture(autouse=True, scope="session")
def plain_tracebacks() -> None:
    """Where rich is installed, structlog has it draw every variable of a traceback, which takes far too long."""
    renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.processors.add_log_level, renderer])


@pytest.fixture
def toy(tmp_path: Path) -> Bundle:
    return load(write_bundle(tmp_path / "bundles" / "toy"))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """PyTorch on one thread: on networks this small its threads wait for each other far longer than they compute."""
    import torch  # here, as the tests of the service need none

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shipped() -> Bundle:
    return load(SHIPPED)
