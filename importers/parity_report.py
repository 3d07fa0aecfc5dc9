"""How far the finished bundle, run by ONNX Runtime, is from the imported network in PyTorch, step by step."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bundle.loading import Bundle
from export.step_module import StepModule
from importers.problems import ImportProblem
from importers.storage import FROM_PYTORCH, Storage, Tolerance
from service.engine.runtime import StepInputs
from service.runtimes.cpu import OrtRuntime

STEPS = 5  # of the default sampler, at most: each is computed twice


class Difference(NamedTuple):
    """Of two arrays, relative to the expected one's standard deviation."""

    largest: float
    rms: float

    @classmethod
    def of(cls, actual: NDArray[Any], expected: NDArray[Any]) -> "Difference":
        error = np.abs(actual.astype(np.float64) - expected)
        scale = float(expected.std(dtype=np.float64)) or 1.0
        return cls(float(error.max()) / scale, float(np.sqrt(np.mean(error**2))) / scale)

    def within(self, tolerance: Tolerance) -> bool:
        return self.rms <= tolerance.rms and self.largest <= tolerance.largest  # false for a NaN

    def __str__(self) -> str:
        return f"largest {self.largest:.1e}, RMS {self.rms:.1e}"


def compare(bundle: Bundle, step: StepModule, storage: Storage) -> dict[str, Any]:
    """Prints a line a step, and gives what the manifest keeps. Raises ImportProblem if a step is off.

    `step` has its weights as they were published, so for float16 the differences are mostly those of its rounding.
    """
    kept: list[dict[str, Any]] = []
    tolerance = FROM_PYTORCH[storage]
    for name, difference in differences(bundle, step):
        print(f"{storage}: {name}: {difference}", flush=True)
        if not difference.within(tolerance):
            raise ImportProblem(f"{storage}: {name}: the graph is off PyTorch: {difference}")
        kept.append({"step": name, "largest": difference.largest, "rms": difference.rms})
    bundle.manifest.parity.tolerance = tolerance.largest
    bundle.manifest.parity.largest_difference = max(each["largest"] for each in kept)
    return {"parity_report": kept}


def differences(bundle: Bundle, step: StepModule) -> Iterator[tuple[str, Difference]]:
    """Of each step of the default sampler, from the state that ONNX Runtime came to, and of the decoded images."""
    manifest, solver = bundle.manifest, bundle.default_solver
    runtime = OrtRuntime(bundle, threads=torch.get_num_threads())
    settings = bundle.solvers[solver].defaults
    plan = bundle.coefficients(min(manifest.recommended_steps, STEPS), solver, settings)
    rng = np.random.default_rng(0)
    state = (2, *manifest.state_shape)
    x, x0 = rng.standard_normal(state, dtype=np.float32), np.zeros(state, dtype=np.float32)
    for index, row in enumerate(plan):
        inputs: dict[str, NDArray[Any]] = {
            "x": x,
            "t": np.full(2, row[0], dtype=np.float32),
            "y": rng.integers(len(manifest.classes) or 1, size=2),
            "noise": rng.standard_normal(state, dtype=np.float32),
            "x0_prev": x0,
            "coefficients": np.tile(row[1:], (2, 1)),
        }
        if manifest.z_dim:
            inputs["z"] = rng.standard_normal((2, manifest.z_dim), dtype=np.float32)
        given = StepInputs(**inputs)
        expected = in_pytorch(step, given.arrays() | runtime.graph_inputs(given))
        x, x0 = (states.array for states in runtime.step(given))
        yield f"{solver}, step {index + 1} of {len(plan)}", Difference.of(x, expected)


@torch.no_grad()
def in_pytorch(step: StepModule, inputs: dict[str, NDArray[Any]]) -> NDArray[Any]:
    """x_new of the step."""
    x_new, _ = step(**{name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in inputs.items()})
    result: NDArray[Any] = x_new.numpy()
    return result
