"""One step of one batch on a runtime, and what it gives. It needs no lock: a running row belongs to its worker."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from service.engine.jobs import Batch, Image
from service.engine.runtime import Array, Runtime, States


@dataclass(frozen=True, slots=True)
class StepResult:
    x: States
    x0: States
    pixels: dict[Image, Array]  # of the images that finish with this step
    previews: dict[Image, Array]  # of the images whose callers want a preview of this step
    seconds: float


def attempt(batch: Batch, runtime: Runtime, clock: Callable[[], float]) -> StepResult:
    """Takes the step. Raises what the runtime does, and FloatingPointError for numbers that are not finite."""
    start_s = clock()
    x, x0 = runtime.step(batch.inputs())
    finished = [batch.images[row] for row in batch.last_rows]
    pixels = runtime.decode(x.select(batch.last_rows)) if finished else np.empty(0, dtype=np.float32)
    if not (x.is_finite() and np.isfinite(pixels).all()):  # x0 is a part of x
        raise FloatingPointError("the step gives numbers that are not finite")
    seconds = clock() - start_s
    previews = {}
    for row, image in enumerate(batch.images):
        if _wants_preview(image):
            with suppress(Exception):  # the image itself does not depend on its preview
                previews[image] = runtime.decode(x0.select([row]))[0]
    return StepResult(x, x0, dict(zip(finished, pixels, strict=True)), previews, seconds)


def _wants_preview(image: Image) -> bool:
    every = image.job.preview_every
    return image.job.watch is not None and every > 0 and (image.step + 1) % every == 0
