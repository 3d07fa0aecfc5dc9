"""The error that a precision causes in images, without a GPU: trajectories in emulated precision against fp32."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from bundle.gpu_manifest import Accuracy, Precision
from bundle.loading import Bundle, sha256
from bundle.manifest import File, Measured
from export.precision import emulate
from service.engine.denoise import default_job, denoise
from service.engine.runtime import Array
from service.runtimes.cpu import OrtRuntime

IMAGES = 16
BATCH = 16
TOLERANCE = 0.01  # root mean square in [−1, 1]: 1.3 levels of an 8-bit image


def emulated(bundle: Bundle, models: Mapping[str, onnx.ModelProto], precision: Precision, folder: Path) -> Bundle:
    """A bundle for the CPU, written to `folder`, that emulates `models`: the bundle's graphs in `precision`."""
    files = {}
    for name, model in models.items():
        onnx.save(emulate(model, precision), folder / name)
        files[name] = File(sha256=sha256(folder / name), bytes=(folder / name).stat().st_size)
    manifest = bundle.manifest.model_copy(update={"files": files, "measured": Measured()})
    manifest.write(folder)
    return Bundle(folder, manifest)


def measure(bundle: Bundle, low: Bundle, threads: int) -> Accuracy:
    """The error of `low` against `bundle`, by solver: images of every class, from the same noise."""
    classes = [*range(len(bundle.manifest.classes)), None]
    labels = [classes[i % len(classes)] for i in range(IMAGES)]
    runtimes = [OrtRuntime(bundle, threads), OrtRuntime(low, threads)]
    by_solver = {}
    for solver in bundle.solvers:
        steps = bundle.default_steps(solver)
        exact, rounded = (images(bundle, runtime, solver, steps, labels) for runtime in runtimes)
        by_solver[solver] = float(np.sqrt(np.square(exact - rounded).mean()))
    return Accuracy(tolerance=TOLERANCE, images=IMAGES, steps=bundle.manifest.recommended_steps, by_solver=by_solver)


def images(bundle: Bundle, runtime: OrtRuntime, solver: str, steps: int, labels: Sequence[int | None]) -> Array:
    """An image for each label, (n, C, H, W); image i has seed i."""
    jobs = [
        default_job(bundle, steps=steps, solver=solver, seed=seed, label=label) for seed, label in enumerate(labels)
    ]
    return denoise(jobs, runtime, BATCH)
