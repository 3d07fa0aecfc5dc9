"""A model's first steps: they take the memory that it needs, and measure what its steps cost."""

import time
from collections.abc import Callable

import numpy as np

from bundle.files import BundleError, shown
from bundle.loading import Bundle
from bundle.manifest import ENCODE, STEP
from service.engine.denoise import first_step
from service.engine.runtime import Runtime, States
from service.registry.time_limit import LOADING, start

FILL_BATCHES = 3  # full batches of each worker
WARM_UPS, WARM_UP_ROWS = 4, 16  # steps of each size, and rows, at least: the first steps are slower
SOON_S = 0.1  # of steps of one size, after which two are enough
ENOUGH_S = 1.0  # of one step: it is not repeated, and there is no larger size


def warm_up(
    runtime: Runtime, bundle: Bundle, max_batch: int, clock: Callable[[], float] = time.perf_counter
) -> dict[int, float]:
    """Runs steps of growing batches, and decodes them; seconds of a step by rows.

    A size whose steps take long is measured by two of them. It ends with the first size whose step takes ENOUGH_S: for
    larger ones the cost model has the proportional time, which is too long rather than too short, and so no larger
    batch is chosen. Raises BundleError if a result has a wrong shape or is not finite.
    """
    curve: dict[int, float] = {}
    for rows in sorted({*(2**k for k in range(max_batch.bit_length())), max_batch}):
        inputs = first_step(bundle, rows)
        times_s: list[float] = []
        most = max(WARM_UPS, WARM_UP_ROWS // rows)
        while len(times_s) < most and sum(times_s) < (ENOUGH_S if len(times_s) < 2 else SOON_S):
            start_s = clock()
            x, _x0 = runtime.step(inputs)
            times_s.append(max(clock() - start_s, 1e-6))
        curve[rows] = min(times_s[1:] or times_s)  # the first one sets things up; whatever else runs here only adds
        _check_result(bundle, rows, runtime, x)
        if curve[rows] >= ENOUGH_S:
            break
    return curve


def time_preview(runtime: Runtime, bundle: Bundle, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds that it takes to decode one image's state: next to none, but for a latent model."""
    _, x0 = runtime.step(first_step(bundle, 1))
    times_s = []
    for _ in range(WARM_UPS):
        start_s = clock()
        runtime.decode(x0.select([0]))
        times_s.append(clock() - start_s)
    return min(times_s)


def fill(runtime: Runtime, bundle: Bundle, rows: int, workers: int) -> None:
    """Full batches on every worker at once: the memory that they need is taken now, not later under load."""
    inputs = first_step(bundle, rows)

    def work() -> None:
        end_s = time.perf_counter() + ENOUGH_S
        for _ in range(FILL_BATCHES):
            runtime.decode(runtime.step(inputs)[0])
            if time.perf_counter() >= end_s:
                break

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
