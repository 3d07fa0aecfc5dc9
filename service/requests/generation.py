"""One resolved request on its way to its files: from the cache, from an identical one in flight, or computed.

Each protocol's handler begins one. Protocols differ in how a request is written and in what becomes of the images.
"""

import asyncio
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np

from bundle.manifest import AUTO
from service.engine.jobs import Job, Priority
from service.engine.placement import Placement
from service.errors import InvalidRequest, Unavailable
from service.requests import auto
from service.requests.encoding import Encoding
from service.requests.etag import etag
from service.requests.inflight import Left
from service.requests.quota import Caller, WorkBudget
from service.requests.request import GenerateRequest
from service.requests.resolve import Sampling, job_of, resolve
from service.requests.state import ServiceState
from service.requests.uploads import NONE, Uploads, read, uploaded
from service.telemetry import tracing


@dataclass(frozen=True)
class Origin:
    """Where a request comes from: its id, who sent it when, and what ends when the client goes away."""

    id: str
    caller: Caller
    budget: WorkBudget | None  # that its work is charged to
    left: Left
    arrived_s: float
    log_fields: dict[str, Any]  # of the request, for its latency's metric and its line in the log


@dataclass(frozen=True)
class Result:
    """The finished files, where they came from, and what they took."""

    files: list[bytes]
    source: Literal["hit", "shared", "miss"]
    job: Job | None  # None: from the cache
    encoding_s: float


class Urgency(Protocol):
    """How soon a request is to be answered."""

    @property
    def deadline_ms(self) -> int | None: ...
    @property
    def priority(self) -> Priority: ...


@dataclass(frozen=True)
class Computation(ABC):
    """A resolved request, whatever it is for."""

    state: ServiceState
    origin: Origin
    model: Placement
    tag: str  # ETag of the answer

    @property
    @abstractmethod
    def identity(self) -> tuple[Hashable, Urgency]:
        """All that decides the result, and how soon it is wanted."""

    @abstractmethod
    def job(self) -> Job: ...

    @abstractmethod
    def encode(self, job: Job) -> list[bytes]:
        """The files of the finished job. It takes too long for the event loop."""

    async def result(self) -> Result:
        """The files. Raises what `submit` and InFlight.wait raise."""
        files = self.state.cache.get(self.tag)
        if files is not None:
            self.state.metrics.cache_hits.inc()
            return Result(files, "hit", None, 0.0)
        source: Literal["shared", "miss"] = "shared" if self._key in self.state.coalescer else "miss"
        if source == "shared":
            self.state.metrics.shared.inc()
        engine = self.state.engine
        ended = self.submit(self.job(), lambda job: self.state.coalescer.join(self._key, lambda: engine.submit(job)))
        job = await self.wait(ended)
        start_s = time.perf_counter()
        return Result(await self.files(job), source, job, time.perf_counter() - start_s)

    def submit(self, job: Job, start: Callable[[Job], asyncio.Future[Job]]) -> asyncio.Future[Job]:
        """Starts the job at its caller's expense; a failure is free. Raises what `start` and `charge` raise."""
        budget = self.origin.budget
        if budget is None:
            return start(job)
        work_s = self.state.engine.predicted_work_s(job)
        budget.charge(work_s)
        try:
            ended = start(job)
        except Exception:
            budget.refund(work_s)
            raise
        ended.add_done_callback(lambda f: budget.refund(work_s) if not f.cancelled() and f.exception() else None)
        return ended

    async def wait(self, ended: asyncio.Future[Job]) -> Job:
        """The finished job. Raises what InFlight.wait raises."""
        return await self.state.in_flight.wait(self.origin.id, self.origin.caller, self.origin.left, ended)

    async def files(self, job: Job) -> list[bytes]:
        """What the job came to, encoded off the event loop and kept in the cache."""
        metrics, method = self.state.metrics, job.method
        metrics.queue_seconds.labels(method).observe(max(job.started_s - self.origin.arrived_s, 0.0))
        if job.deadline_s < math.inf:
            metrics.slack_seconds.labels(method).observe(job.deadline_s - job.finished_s)
        files = await asyncio.to_thread(self.encode, job)
        answered_s = time.perf_counter()
        self.state.answer_time.observe(answered_s - job.finished_s)
        tracing.record(job, answered_s)
        self.state.cache.put(self.tag, files)
        return files

    @property
    def _key(self) -> tuple[object, ...]:
        """What may share a job: the same result, as soon. A request with a deadline has its own."""
        result, urgency = self.identity
        own = None if urgency.deadline_ms is None else object()
        return result, urgency.priority, own


@dataclass(frozen=True)
class Generation(Computation):
    """A request for images."""

    request: GenerateRequest
    sampling: Sampling
    choice: str | None  # for method `auto`: which measured point this is, and why
    encoding: Encoding
    uploads: Uploads = NONE

    @classmethod
    def begin(
        cls,
        state: ServiceState,
        origin: Origin,
        request: GenerateRequest,
        encoding: Encoding,
        uploads: Uploads = NONE,
    ) -> "Generation":
        """Resolves the request, with what `receive` had of it. Raises what Models.find, auto.choose and resolve do."""
        served = state.models.served().values()
        points = auto.operating_points(served, request) if request.method == AUTO else []
        request, choice = auto.choose(request, points, lambda concrete: can_promise(state, origin, concrete))
        model = state.models.find(request.method)
        origin.log_fields["method"] = model.name
        if uploads is not NONE and uploads.model != model.digest:
            raise Unavailable(f"{model.name} was replaced; send the request again")
        sampling = resolve(model, request, served, uploads)
        state.metrics.requested_steps.labels(request.method, sampling.solver).observe(sampling.steps)
        return cls(state, origin, model, etag(sampling, encoding), request, sampling, choice, encoding, uploads)

    def inverted(self) -> "Generation":
        """The same request the other way: from its image to x_T."""
        sampling = self.sampling.model_copy(update={"inverts": True, "strength": None})
        return replace(self, sampling=sampling, tag=etag(sampling, self.encoding))

    @property
    def identity(self) -> tuple[Hashable, Urgency]:
        return self.sampling, self.request

    def job(self) -> Job:
        return new_job(self.state, self.origin, self.model, self.sampling, self.request, self.uploads)

    def encode(self, job: Job) -> list[bytes]:
        return self.encoding.encode(np.stack([image.pixels for image in job.images]))


async def receive(state: ServiceState, request: GenerateRequest) -> Uploads:
    """What the request brings, decoded for its model. Raises InvalidRequest, and what Models.find raises."""
    fields = uploaded(request)
    if not fields:
        return NONE
    if request.method == AUTO:
        raise InvalidRequest.of(fields[0], f"method {AUTO!r} does not take it", None)
    model = state.models.find(request.method)
    return await state.decoder.run(lambda: read(request, model))


def new_job(
    state: ServiceState,
    origin: Origin,
    model: Placement,
    sampling: Sampling,
    request: GenerateRequest,
    uploads: Uploads = NONE,
) -> Job:
    answer_s = state.answer_time.seconds
    return job_of(model, sampling, request, uploads, id=origin.id, submitted_s=origin.arrived_s, answer_s=answer_s)


def can_promise(state: ServiceState, origin: Origin, request: GenerateRequest) -> bool:
    """Whether the engine would accept the request now."""
    model = state.models.find(request.method)
    return state.engine.would_accept(new_job(state, origin, model, resolve(model, request), request))
