"""A request for the likelihood of images: the bound on their bits per dimension under a model."""

import hashlib
import io
import math
import secrets
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from models.bound import Bound
from service.engine import noise
from service.engine.jobs import Job
from service.engine.lanes import LikelihoodJob, Subject, lanes_of
from service.engine.placement import Placement
from service.errors import InvalidRequest
from service.requests.etag import Form, etag
from service.requests.generation import Computation, Origin, Urgency
from service.requests.request import CLASS_LABEL, MAX_INDEX, DeadlineMs, QueuePriority, Seed
from service.requests.resolve import DRAWN_SEEDS, deadline_s, label_of
from service.requests.scored_images import Pixels, read
from service.requests.state import ServiceState

DEFAULT_TERMS = 32
COLUMNS = ("bits_per_dimension", "standard_error", "prior", "diffusion", "reconstruction")

Label = int | str | None


class ScoringFields(BaseModel):
    """What is asked of images that come as the body."""

    model_config = ConfigDict(extra="forbid", strict=True)

    method: Annotated[str, Field(description="a method of `GET /methods` that has a `likelihood`")]
    class_label: Annotated[Label | list[Label], Field(description=f"{CLASS_LABEL}. A list has one for each image")] = (
        None
    )
    terms: Annotated[
        Annotated[int, Field(ge=1)] | Literal["all"] | None,
        Field(
            description="network evaluations an image for the diffusion, at noise levels drawn from the seed; `all`: "
            f"every timestep once, as many as `GET /methods` says. Default: {DEFAULT_TERMS}"
        ),
    ] = None
    seed: Seed = None
    index: Annotated[
        int, Field(ge=0, le=MAX_INDEX, description="index of the first image, which decides its noise with the seed")
    ] = 0
    deadline_ms: DeadlineMs = None
    priority: QueuePriority = "normal"


class LikelihoodRequest(ScoringFields):
    """Images to evaluate. The same request with the same seed always gives the same numbers."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"method": "vdm", "image": "iVBORw0KGgo…", "class_label": 3, "seed": 7}]},
    )

    image: Annotated[
        str | list[str],
        Field(
            description="base64 of a PNG, JPEG, WebP or npy file, or a list of them. An array is uint8, or float32 in "
            "[−1, 1], and may have many images"
        ),
    ]


class Scores(BaseModel):
    """What a request comes to on a model: all that decides its numbers."""

    model_config = ConfigDict(frozen=True)

    digest: str
    method: str
    likelihood_terms: int
    labels: tuple[int, ...]
    seed: int
    index: int
    images: str  # SHA-256 of their pixels, as the model takes them


class ScoreForm(NamedTuple):
    """See `etag.Form`. A cache holds the numbers in either case."""

    name: str
    weak: bool


@dataclass(frozen=True)
class Scoring(Computation):
    """Its files are one: float64 (n, 5) in npy, a row an image, as COLUMNS."""

    request: ScoringFields
    scores: Scores
    bound: Bound
    images: Pixels

    @classmethod
    async def begin(
        cls, state: ServiceState, origin: Origin, request: ScoringFields, files: Sequence[str | bytes], form: Form
    ) -> "Scoring":
        """Resolves the request, and decodes its images. Raises what Models.find does, and InvalidRequest."""
        model = state.models.find(request.method)
        origin.log_fields["method"] = model.name
        bound = bound_of(model, state.models.served().values())
        count = terms_of(request, model, bound)
        images, digest = await state.decoder.run(lambda: decoded(files, model))
        scores = Scores(
            digest=model.digest,
            method=model.name,
            likelihood_terms=count,
            labels=labels_of(request, model, len(images)),
            seed=secrets.randbelow(DRAWN_SEEDS) if request.seed is None else request.seed,
            index=request.index,
            images=digest,
        )
        state.metrics.likelihood_images.labels(model.name).inc(len(images))
        state.metrics.likelihood_terms.labels(model.name).observe(count)
        return cls(state, origin, model, etag(scores, form), request, scores, bound, images)

    @property
    def identity(self) -> tuple[Hashable, Urgency]:
        return self.scores, self.request

    def job(self) -> Job:
        scores, manifest, submitted_s = self.scores, self.model.bundle.manifest, self.origin.arrived_s
        subjects = [
            Subject(
                pixels=pixels,
                index=index,
                label=label,
                bound=self.bound,
                terms=self.bound.terms(noise.start(scores.seed, index), scores.likelihood_terms),
            )
            for index, (pixels, label) in enumerate(zip(self.images, scores.labels, strict=True), start=scores.index)
        ]
        table = subjects[0].terms.table
        return LikelihoodJob(
            id=self.origin.id,
            method=scores.method,
            model=scores.digest,
            coefficients=table,
            shape=manifest.state_shape,
            z_dim=0,
            label=len(manifest.classes),
            seed=scores.seed,
            n=len(subjects) * lanes_of(len(subjects), len(table)),
            submitted_s=submitted_s,
            priority=self.request.priority,
            deadline_s=deadline_s(self.request.deadline_ms, submitted_s, self.state.answer_time.seconds),
            subjects=subjects,
        )

    def encode(self, job: Job) -> list[bytes]:
        assert isinstance(job, LikelihoodJob)
        parts = job.parts()
        nats = [(p.prior + p.diffusion + p.reconstruction, p.standard_error, *p[:3]) for p in parts]
        bits = np.array(nats) / (math.log(2) * self.images[0].size)
        stream = io.BytesIO()
        np.save(stream, bits)
        return [stream.getvalue()]


def decoded(files: Sequence[str | bytes], model: Placement) -> tuple[Pixels, str]:
    """The images (n, C, H, W) of these files, text being base64, and their SHA-256. Raises InvalidRequest."""
    images = read("image", files, model.bundle.manifest.shape)
    return images, hashlib.sha256(images.tobytes()).hexdigest()


def table(files: Sequence[bytes]) -> NDArray[np.float64]:
    """The numbers (n, 5) in the file of a Scoring."""
    numbers: NDArray[np.float64] = np.load(io.BytesIO(files[0]), allow_pickle=False)
    return numbers


def bound_of(model: Placement, served: Iterable[Placement]) -> Bound:
    """Raises InvalidRequest, which names the models that have one."""
    bound = model.bundle.bound
    if bound is None:
        names = [other.name for other in served if other.bundle.bound is not None]
        detail = f"{model.name} has no bound on the likelihood, as models that predict noise at every level have"
        raise InvalidRequest.of("method", detail, names)
    return bound


def terms_of(request: ScoringFields, model: Placement, bound: Bound) -> int:
    """Raises InvalidRequest."""
    if request.terms == "all":
        return bound.most
    count = min(DEFAULT_TERMS, bound.most) if request.terms is None else request.terms
    if count > bound.most:
        raise InvalidRequest.of("terms", f"{model.name} takes at most {bound.most}", {"min": 1, "max": bound.most})
    return count


def labels_of(request: ScoringFields, model: Placement, images: int) -> tuple[int, ...]:
    """The number of each image's class. Raises InvalidRequest."""
    labels = request.class_label
    if not isinstance(labels, list):
        return (label_of(model.bundle, labels),) * images
    if len(labels) != images:
        raise InvalidRequest.of("class_label", f"{len(labels)} classes of {images} images", {"length": images})
    return tuple(label_of(model.bundle, label) for label in labels)
