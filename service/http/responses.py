"""From a finished job to the answer that was asked for: its form, its names, its files."""

import base64
import hashlib
import time
from collections.abc import Sequence

import mimeparse
import numpy as np
import orjson

from bundle.manifest import Bundle, Sampling
from service.engine.jobs import Job
from service.errors import NotAcceptable
from service.http.schemas import (
    Format,
    GeneratedImage,
    GenerateResponse,
    MethodInfo,
    ModelRef,
    Range,
    SolverInfo,
    Steps,
    Timing,
)
from service.requests.encoding import MEDIA_TYPES, encode

JSON, EVENTS, ARRAY = "application/json", "text/event-stream", MEDIA_TYPES["npy"]
FORMATS = {media_type: format for format, media_type in MEDIA_TYPES.items()}
ANSWERS = [EVENTS, *reversed(FORMATS), JSON]  # mimeparse takes the last of those that suit equally well: JSON for */*


def negotiate(accept: str) -> str:
    """The media type of the answer. Raises NotAcceptable."""
    try:
        best = mimeparse.best_match(ANSWERS, accept.lower() or "*/*")
    except mimeparse.MimeTypeParseException:
        best = ""
    if not best:
        raise NotAcceptable(accept, ANSWERS)
    return str(best)


def etag(sampling: Sampling, answer: str, format: str) -> str:
    """Names an answer's images and form. Weak for JSON, whose id and timing differ from call to call."""
    answer = JSON if answer == EVENTS else answer  # a stream ends in the JSON answer
    form = f"{answer};{format}" if answer == JSON else answer
    digest = hashlib.sha256(f"{sampling.model_dump_json()} {form}".encode()).hexdigest()
    return f'W/"{digest}"' if answer == JSON else f'"{digest}"'


def is_match(tag: str, if_none_match: str) -> bool:
    """Weak comparison (RFC 9110, section 13.1.2) with a list of tags."""
    asked = [each.strip().removeprefix("W/") for each in if_none_match.split(",")]
    return tag.removeprefix("W/") in asked


def files(job: Job, answer: str, format: Format) -> list[bytes]:
    """The job's images encoded: a file each for JSON, else all in one."""
    images = np.stack([image.pixels for image in job.images])
    if answer in FORMATS:
        return [encode(images, FORMATS[answer])]
    return [encode(image[None], format) for image in images]


def timing(job: Job | None, arrived_s: float, encoding_s: float) -> tuple[Timing, str]:
    """Also as a `Server-Timing` header; without a job nothing was computed."""
    queue_s = max(job.started_s - arrived_s, 0.0) if job else 0.0
    compute_s = job.finished_s - max(job.started_s, arrived_s) if job else 0.0
    total_s = time.perf_counter() - arrived_s
    header = (
        f"queue;dur={1000 * queue_s:.3f}, compute;dur={1000 * compute_s:.3f}, "
        f"encode;dur={1000 * encoding_s:.3f}, total;dur={1000 * total_s:.3f}"
    )
    return Timing(queue_ms=1000 * queue_s, compute_ms=1000 * compute_s, total_ms=1000 * total_s), header


def json(
    id: str, bundle: Bundle, sampling: Sampling, chosen: str | None, made: Sequence[bytes], timing: Timing
) -> bytes:
    """The JSON answer."""
    classes = bundle.manifest.classes
    response = GenerateResponse(
        id=id,
        method=sampling.method,
        steps=sampling.steps,
        solver=sampling.solver,
        settings=dict(sampling.settings),
        chosen=chosen,
        seed=sampling.seed,
        class_label=classes[sampling.label] if sampling.label < len(classes) else None,
        images=[
            GeneratedImage(index=i, data=base64.b64encode(file).decode(), sha256=hashlib.sha256(file).hexdigest())
            for i, file in enumerate(made)
        ],
        timing=timing,
        model=ModelRef(name=bundle.manifest.name, digest=bundle.digest),
    )
    return orjson.dumps(response.model_dump())


def describe(bundle: Bundle) -> MethodInfo:
    manifest = bundle.manifest
    solvers = [
        SolverInfo(
            name=name,
            summary=solver.summary,
            settings={s: Range(min=r.low, max=r.high, default=r.default) for s, r in solver.settings.items()},
        )
        for name, solver in bundle.family.SOLVERS.items()
    ]
    return MethodInfo(
        method=manifest.name,
        family=manifest.family,
        model=ModelRef(name=manifest.name, digest=bundle.digest),
        image_shape=manifest.shape,
        classes=manifest.classes,
        steps=Steps(min=1, max=bundle.max_steps, default=manifest.recommended_steps),
        solvers=solvers,
        device=bundle.device,
        measured=manifest.measured,
    )
