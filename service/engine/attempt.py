"""One step of one batch on a runtime, and its result. It needs no lock: a running row belongs to its worker."""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from service.engine.jobs import Batch, Image
from service.engine.lanes import Lane
from service.engine.runtime import Array, Runtime, State, States


@dataclass(frozen=True, slots=True)
class StepResult:
    """The states after a step, and the pictures that come of it, (C, H, W) each."""

    x: States | Sequence[State]
    x0: States
    pixels: dict[Image, Array]  # of the images that finish with this step; states, where the job is not to decode them
    terms: dict[Lane, float]  # of bounds, for the rows that were such
    previews: dict[Image, Array]  # of the images whose callers want a preview of this step
    seconds: float  # of the step, without its previews
    preview_s: float  # of each preview


def attempt(batch: Batch, runtime: Runtime, clock: Callable[[], float]) -> StepResult:
    """Takes the step. Raises what the runtime does, and FloatingPointError for numbers that are not finite."""
    start_s = clock()
    for image in batch.images:
        if image.x is None and image.job.picture is not None:
            image.begin_at_picture(runtime)
    x, x0 = runtime.step(batch.inputs())
    rows = dict(zip(batch.images, batch.first_rows, strict=True))
    lanes = [image for image in batch.images if isinstance(image, Lane)]
    pixels = _finished(x, rows, runtime)
    if not (x.is_finite() and all(np.isfinite(each).all() for each in pixels.values())):  # x0 is a part of x
        raise FloatingPointError("the step gives numbers that are not finite")
    terms = _terms(lanes, [rows[lane] for lane in lanes], runtime, x, x0) if lanes else {}
    kept = _with_known(x, rows, runtime)
    done_s, previews = clock(), {}
    for image in (image for image in batch.images if image.wants_preview):
        with suppress(Exception):  # the image itself does not depend on its preview
            previews[image] = runtime.decode(x0.select([rows[image]]))[0]
    preview_s = (clock() - done_s) / max(len(previews), 1)
    return StepResult(kept, x0, pixels, terms, previews, done_s - start_s, preview_s)


def _terms(lanes: list[Lane], rows: list[int], runtime: Runtime, x: States, x0: States) -> dict[Lane, float]:
    """The term of each lane. Raises FloatingPointError for one that is not finite."""
    predictions, ratios = runtime.decode(x0.select(rows)), runtime.decode(x.select(rows))
    terms = {lane: lane.term(x0, ratio) for lane, x0, ratio in zip(lanes, predictions, ratios, strict=True)}
    if not all(map(math.isfinite, terms.values())):
        raise FloatingPointError("a term of a bound is not finite")
    return terms


def _finished(x: States, rows: dict[Image, int], runtime: Runtime) -> dict[Image, Array]:
    """What comes of the images that finish."""
    finished = [image for image in rows if image.steps_left == 1 and not isinstance(image, Lane)]
    pixels: dict[Image, Array] = {}
    for download, decodes in ((runtime.decode, True), (runtime.fetch, False)):
        if images := [image for image in finished if image.job.decodes == decodes]:
            pixels |= zip(images, download(x.select([rows[image] for image in images])), strict=True)
    for image in finished:
        if image.job.picture is not None:
            pixels[image] = image.job.picture.keep_pixels(pixels[image])
    return pixels


def _with_known(x: States, rows: dict[Image, int], runtime: Runtime) -> States | Sequence[State]:
    """x, in which images that are painted anew in part, and go on, have the known rest of their pictures."""
    masked = [image for image in rows if image.job.masked and image.steps_left > 1]
    if not masked:
        return x
    fetched = runtime.fetch(x.select([rows[image] for image in masked]))
    known = {rows[image]: image.keep_known(each, runtime) for image, each in zip(masked, fetched, strict=True)}
    return [known[row] if row in known else x[row] for row in range(x.shape[0])]
