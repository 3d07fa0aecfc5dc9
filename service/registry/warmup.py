"""A model's first steps: they take the memory that it needs, and measure what its steps cost."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from bundle.loading import Bundle
from service.engine.denoise import first_step
from service.engine.runtime import Runtime

FILL_BATCHES = 3  # full batches of each worker
WARM_UPS, WARM_UP_ROWS = 4, 16  # steps of each size, and rows, at least: the first steps are slower


def warm_up(runtime: Runtime, bundle: Bundle, max_batch: int) -> dict[int, float]:
    """Runs steps of growing batches, and decodes them; seconds of a step by rows.

    Raises ValueError if a result has a wrong shape or is not finite.
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
        state_shape = (rows, *bundle.manifest.state_shape)
        if x.shape != state_shape:
            raise ValueError(f"the step gives x of shape {x.shape} for one of {state_shape}")
        images = runtime.decode(x)
        if images.shape != (rows, *bundle.manifest.shape):
            raise ValueError(f"the images have shape {images.shape}, not {(rows, *bundle.manifest.shape)}")
        if not np.isfinite(images).all():
            raise ValueError("the step gives numbers that are not finite")
    return curve


def fill(runtime: Runtime, bundle: Bundle, rows: int, workers: int) -> None:
    """Full batches on every worker at once: the memory that they need is taken now, not later under load."""
    inputs = first_step(bundle, rows)
    with ThreadPoolExecutor(workers) as pool:
        for step in [pool.submit(runtime.step, inputs) for _ in range(FILL_BATCHES * workers)]:
            runtime.decode(step.result()[0])
