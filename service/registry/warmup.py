"""A model's first steps: they take the memory that it needs, and measure what its steps cost."""

import time

import numpy as np

from bundle.files import BundleError, shown
from bundle.loading import Bundle
from bundle.manifest import ENCODE, STEP
from service.engine.denoise import first_step
from service.engine.runtime import Runtime, States
from service.registry.time_limit import LOADING, start

FILL_BATCHES = 3  # full batches of each worker
WARM_UPS, WARM_UP_ROWS = 4, 16  # steps of each size, and rows, at least: the first steps are slower


def warm_up(runtime: Runtime, bundle: Bundle, max_batch: int) -> dict[int, float]:
    """Runs steps of growing batches, and decodes them; seconds of a step by rows.

    Raises BundleError if a result has a wrong shape or is not finite.
    """
    curve = {}
    for rows in sorted({*(2**k for k in range(max_batch.bit_length())), max_batch}):
        inputs = first_step(bundle, rows)
        times_s = []
        for _ in range(max(WARM_UPS, WARM_UP_ROWS // rows)):
            start_s = time.perf_counter()
            x, _x0 = runtime.step(inputs)
            times_s.append(max(time.perf_counter() - start_s, 1e-6))
        curve[rows] = min(times_s[1:])  # the first one sets things up; whatever else runs here only adds
        _check_result(bundle, rows, runtime, x)
    return curve


def fill(runtime: Runtime, bundle: Bundle, rows: int, workers: int) -> None:
    """Full batches on every worker at once: the memory that they need is taken now, not later under load."""
    inputs = first_step(bundle, rows)

    def work() -> None:
        for _ in range(FILL_BATCHES):
            runtime.decode(runtime.step(inputs)[0])

    for worker in [start(work, f"{LOADING}{number}") for number in range(workers)]:
        worker.result()


def _check_result(bundle: Bundle, rows: int, runtime: Runtime, x: States) -> None:
    where = f"{shown(bundle.folder.name)}/{STEP}"
    state_shape, shape = (rows, *bundle.manifest.state_shape), (rows, *bundle.manifest.shape)
    if x.shape != state_shape:
        raise BundleError(f"{where}: the step gives x of shape {x.shape} for one of {state_shape}")
    images = runtime.decode(x)
    if images.shape != shape:
        raise BundleError(f"{where}: the images have shape {images.shape}, not {shape}")
    state = runtime.encode(images[0])
    if state.shape != bundle.manifest.state_shape and bundle.takes_images:
        raise BundleError(f"{shown(bundle.folder.name)}/{ENCODE}: a state has shape {state.shape}")
    if not np.isfinite(images).all():
        raise BundleError(f"{where}: the step gives numbers that are not finite")
