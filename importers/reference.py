"""Compares a finished bundle, run by ONNX Runtime, with arrays that the original code computed."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundle.loading import Bundle
from export.step_module import COEFFICIENTS, Wiring
from importers.noise_schedule import Sampling
from importers.parity_report import Difference
from importers.problems import ImportProblem
from models.step import Step
from service.engine.runtime import StepInputs
from service.runtimes.cpu import OrtRuntime

MAXIMUM = 20  # the largest difference allowed, in units of the allowed RMS
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Options:
    """Which arrays, which solver, and how near is near enough."""

    file: Path
    solver: str | None
    steps: int | None
    settings: dict[str, float]
    tolerance: float

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> "Options":
        settings = {} if arguments.eta is None else {"eta": arguments.eta}
        return cls(arguments.reference, arguments.solver, arguments.steps, settings, arguments.tolerance)


class Reference:
    """The bundle, and the arrays laid as its graph takes them."""

    def __init__(self, bundle: Bundle, wiring: Wiring, chosen: Sampling, arrays: Arrays) -> None:
        self.bundle, self.wiring, self.chosen, self.arrays = bundle, wiring, chosen, arrays
        self.runtime = OrtRuntime(bundle, threads=2)

    def states(self, name: str) -> NDArray[np.float32]:
        """An array of states (…, C, H, W); VDM's are recorded with their channels last."""
        array, shape = self.arrays[name], self.bundle.manifest.state_shape
        if array.shape[-3:] != shape and self.bundle.manifest.family == "vdm":
            array = np.moveaxis(array, -1, -3)
        if array.ndim < 4 or array.shape[-2:] != shape[1:] or array.shape[-3] not in (shape[0], 2 * shape[0]):
            raise ImportProblem(f"reference: {name} has shape {self.arrays[name].shape}, states have {shape}")
        return np.ascontiguousarray(array, dtype=np.float32)

    def step(self, x: NDArray[Any], k: NDArray[Any], t: NDArray[Any], **more: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        """x_new and x0 of rows that share their coefficients."""
        rows = len(x)
        classes = self.bundle.manifest.classes
        labels = self.arrays.get("y", np.full(rows, len(classes)))
        inputs = {"noise": np.zeros_like(x), "x0_prev": np.zeros_like(x), **more}
        coefficients = np.tile(k.astype(np.float32), (rows, 1))
        x_new, x0 = self.runtime.step(
            StepInputs(x=x, t=t, y=np.asarray(labels, dtype=np.int64), coefficients=coefficients, **inputs)
        )
        return x_new.array, x0.array

    def output(self) -> NDArray[Any]:
        """out of the network for the recorded x, t, y and z: x_new, where a step has T = 1 and nothing else."""
        x = self.states("x") / np.float32(self.chosen.scale)
        t = np.broadcast_to(np.asarray(self.arrays["t"], dtype=np.float32), len(x)).copy()
        more = {"z": self.arrays["z"].astype(np.float32)} if "z" in self.arrays else {}
        out, _ = self.step(x, columns(x_from_out=1.0), t, **more)
        if not self.wiring.learned_variance:
            return out
        factor, _ = self.step(x, columns(noise_std=1.0, log_std_from_v=1.0), t, noise=np.ones_like(x), **more)
        return np.concatenate((out, 2 * np.log(factor.astype(np.float64)) - 1), axis=1)

    def trajectory(self, options: Options) -> list[tuple[str, Difference]]:
        """Each step of the solver, from the stored state."""
        xs = self.states("xs")
        noises = self.states("noises") if "noises" in self.arrays else np.zeros_like(xs[:-1])
        latents = self.arrays.get("zs", self.arrays.get("z"))
        solver = options.solver or self.bundle.default_solver
        if solver not in self.bundle.solvers:
            raise ImportProblem(f"no solver {solver!r}: there are {', '.join(self.bundle.solvers)}")
        settings = {**dict(self.bundle.solvers[solver].defaults), **options.settings}
        plan = self.bundle.coefficients(options.steps or len(xs) - 1, solver, tuple(settings.items()))
        if len(plan) != len(xs) - 1:
            raise ImportProblem(f"{solver} has {len(plan)} steps, {len(xs) - 1} are recorded")
        results, x0 = [], np.zeros_like(xs[0])
        for index, row in enumerate(plan):
            more: dict[str, Any] = {"x0_prev": x0, "noise": noises[min(index, len(noises) - 1)]}
            if self.bundle.manifest.z_dim and latents is not None:
                more["z"] = (latents[index] if latents.ndim == 3 else latents).astype(np.float32)
            x, x0 = self.step(xs[index], row[1:], np.full(len(x0), row[0], dtype=np.float32), **more)
            results.append((f"{solver}, step {index + 1} of {len(plan)}", Difference.of(x, xs[index + 1])))
        return results


def columns(**coefficients: float) -> NDArray[Any]:
    return np.array([getattr(Step(0.0, **coefficients), name) for name in COEFFICIENTS])


def compare(bundle: Bundle, wiring: Wiring, chosen: Sampling, options: Options) -> dict[str, Any]:
    """Prints a line a comparison, and gives what the manifest keeps. Raises ImportProblem if one is off."""
    with np.load(options.file, allow_pickle=False) as file:
        reference = Reference(bundle, wiring, chosen, dict(file))
    arrays, results = reference.arrays, []
    if {"x", "t", "out"} <= arrays.keys():
        expected = reference.states("out")
        results.append(("network", Difference.of(reference.output()[:, : expected.shape[1]], expected)))
    if "xs" in arrays:
        results += reference.trajectory(options)
    if not results:
        raise ImportProblem(f"{options.file.name}: it has neither x, t and out, nor xs")
    for name, difference in results:
        print(f"reference: {name}: {difference}", flush=True)
    off = [name for name, each in results if not each.within(options.tolerance, MAXIMUM * options.tolerance)]
    if off:
        raise ImportProblem(f"{options.file.name}: {len(off)} of {len(results)} comparisons are off, first {off[0]}")
    kept = [{"of": name, "largest": each.largest, "rms": each.rms} for name, each in results]
    return {"reference": {"tolerance": options.tolerance, "comparisons": kept}}
