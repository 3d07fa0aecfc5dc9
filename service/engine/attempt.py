"""One step of one batch on a runtime, and its result. It needs no lock: a running row belongs to its worker."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from service.engine.jobs import Batch, Image
from service.engine.runtime import Array, Runtime, States


@dataclass(frozen=True, slots=True)
class StepResult:
    """The states after a step, and the pictures that come of it, (C, H, W) each."""

    x: States
    x0: States
    pixels: dict[Image, Array]  # of the images that finish with this step
    previews: dict[Image, Array]  # of the images whose callers want a preview of this step
    seconds: float


def attempt(batch: Batch, runtime: Runtime, clock: Callable[[], float]) -> StepResult:
    """Takes the step. Raises what the runtime does, and FloatingPointError for numbers that are not finite."""
    start_s = clock()
    x, x0 = runtime.step(batch.inputs())
    rows = dict(zip(batch.images, batch.first_rows, strict=True))
    finished = [image for image in batch.images if image.steps_left == 1]
    last = [rows[image] for image in finished]
    pixels = runtime.decode(x.select(last)) if finished else np.empty(0, dtype=np.float32)
    if not (x.is_finite() and np.isfinite(pixels).all()):  # x0 is a part of x
        raise FloatingPointError("the step gives numbers that are not finite")
    previews = {}
    for image in filter(_wants_preview, batch.images):
        with suppress(Exception):  # the image itself does not depend on its preview
            previews[image] = runtime.decode(x0.select([rows[image]]))[0]
    seconds = clock() - start_s  # with the previews: to decode may take as long as the step, and everybody waits for it
    return StepResult(x, x0, dict(zip(finished, pixels, strict=True)), previews, seconds)


def _wants_preview(image: Image) -> bool:
    every = image.job.preview_every
    return image.job.watch is not None and every > 0 and (image.step + 1) % every == 0
