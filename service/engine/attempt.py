"""One step of one batch on a runtime, and its result. It needs no lock: a running row belongs to its worker."""

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from service.engine.jobs import Batch, Image
from service.engine.lanes import Lane
from service.engine.runtime import Array, Runtime, States


@dataclass(frozen=True, slots=True)
class StepResult:
    """The states after a step, and the pictures that come of it, (C, H, W) each."""

    x: States
    x0: States
    pixels: dict[Image, Array]  # of the images that finish with this step
    terms: dict[Lane, float]  # of bounds, for the rows that were such
    previews: dict[Image, Array]  # of the images whose callers want a preview of this step
    seconds: float


def attempt(batch: Batch, runtime: Runtime, clock: Callable[[], float]) -> StepResult:
    """Takes the step. Raises what the runtime does, and FloatingPointError for numbers that are not finite."""
    start_s = clock()
    x, x0 = runtime.step(batch.inputs())
    rows = dict(zip(batch.images, batch.first_rows, strict=True))
    lanes = [image for image in batch.images if isinstance(image, Lane)]
    finished = [image for image in batch.images if image.steps_left == 1 and not isinstance(image, Lane)]
    last = [rows[image] for image in finished]
    pixels = runtime.decode(x.select(last)) if finished else np.empty(0, dtype=np.float32)
    if not (x.is_finite() and np.isfinite(pixels).all()):  # x0 is a part of x
        raise FloatingPointError("the step gives numbers that are not finite")
    terms = _terms(lanes, [rows[lane] for lane in lanes], runtime, x, x0) if lanes else {}
    seconds = clock() - start_s
    previews = {}
    for image in filter(_wants_preview, batch.images):
        with suppress(Exception):  # the image itself does not depend on its preview
            previews[image] = runtime.decode(x0.select([rows[image]]))[0]
    return StepResult(x, x0, dict(zip(finished, pixels, strict=True)), terms, previews, seconds)


def _terms(lanes: list[Lane], rows: list[int], runtime: Runtime, x: States, x0: States) -> dict[Lane, float]:
    """The term of each lane. Raises FloatingPointError for one that is not finite."""
    predictions, ratios = runtime.decode(x0.select(rows)), runtime.decode(x.select(rows))
    terms = {lane: lane.term(x0, ratio) for lane, x0, ratio in zip(lanes, predictions, ratios, strict=True)}
    if not all(map(math.isfinite, terms.values())):
        raise FloatingPointError("a term of a bound is not finite")
    return terms


def _wants_preview(image: Image) -> bool:
    every = image.job.preview_every
    return image.job.watch is not None and every > 0 and (image.step + 1) % every == 0
