"""Compares a finished bundle, run by ONNX Runtime, with arrays that the original code computed."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundle.loading import Bundle
from export.step_module import COEFFICIENTS, Wiring
from importers.formats import Format
from importers.parity_report import Difference
from importers.problems import ImportProblem
from importers.storage import FROM_RECORDED, Storage, Tolerance
from models.karras import preconditioning
from models.step import HISTORY, Plan, Step, with_history
from service.engine.runtime import StepInputs
from service.runtimes.cpu import OrtRuntime

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Options:
    """Which arrays, which solver, and how near is near enough."""

    file: Path
    solver: str | None
    steps: int | None
    settings: dict[str, float]
    tolerance: Tolerance

    @classmethod
    def of(cls, arguments: argparse.Namespace, storage: Storage) -> "Options":
        settings = {name: value for name in ("eta", "churn") if (value := getattr(arguments, name)) is not None}
        asked = arguments.tolerance
        tolerance = FROM_RECORDED[storage] if asked is None else Tolerance.of(asked)
        return cls(arguments.reference, arguments.solver, arguments.steps, settings, tolerance)


class Reference:
    """The bundle, and the arrays laid as its graph takes them."""

    def __init__(self, bundle: Bundle, wiring: Wiring, arrays: Arrays) -> None:
        self.bundle, self.wiring, self.arrays = bundle, wiring, arrays
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
        """x_new and x0 of rows with these coefficients: (columns,), or (n, columns)."""
        rows = len(x)
        classes = self.bundle.manifest.classes
        labels = self.arrays.get("y", np.full(rows, len(classes)))
        inputs = {"noise": np.zeros_like(x), "x0_prev": np.zeros_like(x), **more}
        coefficients = np.broadcast_to(k.astype(np.float32), (rows, k.shape[-1])).copy()
        x_new, x0 = self.runtime.step(
            StepInputs(x=x, t=t, y=np.asarray(labels, dtype=np.int64), coefficients=coefficients, **inputs)
        )
        return x_new.array, x0.array

    def output(self) -> NDArray[Any]:
        """out of the network for the recorded x, t, y and z: x_new, where a step has T = 1 and nothing else."""
        x = self.states("x")
        t = np.broadcast_to(np.asarray(self.arrays["t"], dtype=np.float32), len(x)).copy()
        more = {"z": self.arrays["z"].astype(np.float32)} if "z" in self.arrays else {}
        out, _ = self.step(x, columns(x_from_out=1.0), t, **more)
        if not self.wiring.learned_variance:
            return out
        factor, _ = self.step(x, columns(noise_std=1.0, log_std_from_v=1.0), t, noise=np.ones_like(x), **more)
        return np.concatenate((out, 2 * np.log(factor.astype(np.float64)) - 1), axis=1)

    def denoised(self) -> NDArray[Any]:
        """D(x, σ) for the recorded x, sigma and y, of a network of noise levels: R = c_skip, T = c_out."""
        if not self.wiring.preconditioned:
            raise ImportProblem("reference: sigma is recorded, but this is no model of noise levels")
        functions = preconditioning.of(self.bundle.manifest.noise_schedule["preconditioning"])
        x = self.states("x")
        sigma = np.broadcast_to(np.asarray(self.arrays["sigma"], dtype=np.float64), len(x))
        names = {"network_from_x": functions.c_in, "x_from_x": functions.c_skip, "x_from_out": functions.c_out}
        values = [dict(zip(names, row, strict=True)) for row in zip(*(f(sigma) for f in names.values()), strict=True)]
        k = np.stack([columns(**{name: float(value) for name, value in row.items()}) for row in values])
        return self.step(x, k, functions.c_noise(sigma).astype(np.float32))[0]

    def trajectory(self, options: Options) -> list[tuple[str, Difference]]:
        """Each step of the solver, from the stored state."""
        xs, solver = self.states("xs"), options.solver or self.bundle.default_solver
        if solver not in self.bundle.solvers:
            raise ImportProblem(f"no solver {solver!r}: there are {', '.join(self.bundle.solvers)}")
        settings = {**dict(self.bundle.solvers[solver].defaults), **options.settings}
        plan = self.plan(options.steps or len(xs) - 1, solver, settings)
        steps = rows_of_steps(plan, len(xs) - 1)
        if len(steps) != len(xs) - 1:
            raise ImportProblem(f"{solver} has {len(steps)} steps, {len(xs) - 1} are recorded")
        starts, noises = xs, self.noises(xs)
        if settings.get("churn"):
            starts, noises = self.churned(xs, noises, steps, self.first_churn(plan, len(steps), solver, settings))
        results, earlier = [], [np.zeros_like(xs[0])] * len(HISTORY)
        for index, rows in enumerate(steps):
            x = starts[index] / np.float32(plan.start_std if index == 0 else 1.0)
            for row in rows:
                t = np.full(len(x), row.t, dtype=np.float32)
                k, x0_prev = with_history(row, earlier)
                x, x0 = self.step(x, np.array(k[1:]), t, x0_prev=x0_prev, noise=noises[index], **self.latent(index))
                earlier = [x0, *earlier][: len(HISTORY)]
            results.append((f"{solver}, step {index + 1} of {len(steps)}", Difference.of(x, xs[index + 1])))
        return results

    def plan(self, steps: int, solver: str, settings: dict[str, float]) -> Plan:
        return self.bundle.solvers[solver].plan(self.bundle.manifest.noise_schedule, steps, **settings)

    def noises(self, xs: NDArray[Any]) -> NDArray[Any]:
        """The noise of each step; zeros where there is none."""
        recorded = self.states("noises") if "noises" in self.arrays else np.zeros_like(xs[:1])
        return recorded[np.minimum(np.arange(len(xs) - 1), len(recorded) - 1)]

    def latent(self, index: int) -> dict[str, NDArray[Any]]:
        """The network's z in a step, where it takes one."""
        latents = self.arrays.get("zs", self.arrays.get("z"))
        if not self.bundle.manifest.z_dim or latents is None:
            return {}
        return {"z": (latents[index] if latents.ndim == 3 else latents).astype(np.float32)}

    def first_churn(self, plan: Plan, steps: int, solver: str, settings: dict[str, float]) -> float:
        """The first step's part of the start's standard deviation."""
        without = self.plan(steps, solver, {**settings, "churn": 0.0})
        return float(np.sqrt(max(plan.start_std**2 - without.start_std**2, 0.0)))

    def churned(
        self, xs: NDArray[Any], noises: NDArray[Any], steps: list[list[Step]], first: float
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """The states that steps start from and the noise of their rows, where a step adds its noise as it begins.

        Rows add it at the end of the step before. EDM's states are from before that, consistency models' from after.
        """
        if self.bundle.manifest.noise_schedule["format"] != Format.EDM:
            return xs, np.append(noises[1:], np.zeros_like(noises[:1]), axis=0)
        stds = np.array([first, *(rows[-1].noise_std for rows in steps[:-1])], dtype=np.float32)
        return xs[:-1] + stds.reshape(-1, 1, 1, 1, 1) * noises, np.zeros_like(noises)


def rows_of_steps(plan: Plan, steps: int) -> list[list[Step]]:
    """The plan's rows by step: a step of two evaluations has a second row that reads the x0 of its first."""
    groups: list[list[Step]] = []
    for row in plan:
        if groups and len(plan) > steps and row.x_from_x0_prev:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def columns(**coefficients: float) -> NDArray[Any]:
    return np.array([getattr(Step(0.0, **coefficients), name) for name in COEFFICIENTS])


def read(path: Path) -> Arrays:
    """The arrays of a .npz file. Raises ImportProblem."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return dict(file)
    except Exception as error:  # of a file cut short NumPy raises what the zip, the header or the data came to
        raise ImportProblem(f"{path.name}: not a whole .npz file ({type(error).__name__}: {error})") from error


def compare(bundle: Bundle, wiring: Wiring, options: Options) -> dict[str, Any]:
    """Prints a line a comparison, and gives what the manifest keeps. Raises ImportProblem if one is off."""
    reference = Reference(bundle, wiring, read(options.file))
    arrays, results = reference.arrays, []
    if {"x", "t", "out"} <= arrays.keys():
        expected = reference.states("out")
        results.append(("network", Difference.of(reference.output()[:, : expected.shape[1]], expected)))
    if {"x", "sigma", "out"} <= arrays.keys():
        results.append(("denoiser", Difference.of(reference.denoised(), reference.states("out"))))
    if "xs" in arrays:
        results += reference.trajectory(options)
    if not results:
        raise ImportProblem(f"{options.file.name}: it has neither x, t or sigma, and out, nor xs")
    for name, difference in results:
        print(f"reference: {name}: {difference}", flush=True)
    off = [name for name, each in results if not each.within(options.tolerance)]
    if off:
        raise ImportProblem(f"{options.file.name}: {len(off)} of {len(results)} comparisons are off, first {off[0]}")
    kept = [{"of": name, "largest": each.largest, "rms": each.rms} for name, each in results]
    return {"reference": {"tolerance": options.tolerance.rms, "comparisons": kept}}
