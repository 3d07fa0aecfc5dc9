"""One resolved request on its way to its images: from the cache, from an identical one in flight, or computed.

Every protocol's handler begins one; what they differ in is how they are asked and what they make of the files.
"""

import asyncio
import math
import time
from dataclasses import dataclass

from asgi_correlation_id import correlation_id
from fastapi import Request
from starlette.types import Receive

from bundle.manifest import Bundle, Sampling
from service.engine.jobs import Job
from service.http import responses
from service.http.auth import Account, Caller, caller, charged
from service.http.schemas import GenerateRequest, Timing
from service.registry.registry import Service
from service.requests import auto
from service.telemetry import tracing


@dataclass(frozen=True)
class Made:
    """The finished files, and the headers that say where they came from and what they took."""

    files: list[bytes]
    timing: Timing
    headers: dict[str, str]


@dataclass(frozen=True)
class Generation:
    service: Service
    receive: Receive  # tells when the client goes away
    caller: Caller
    account: Account | None  # that the work is charged to
    body: GenerateRequest
    bundle: Bundle
    sampling: Sampling
    chosen: str | None  # by method auto: which measured point this is, and why
    form: str  # media type of the files: one file of all images, or for JSON and events one each in `body.format`
    tag: str
    id: str
    arrived_s: float

    @classmethod
    def begin(cls, request: Request, body: GenerateRequest, form: str) -> "Generation":
        """Resolves what is asked. Raises what Service.find, auto.choose and Bundle.resolve raise."""
        arrived_s = time.perf_counter()
        service: Service = request.app.state.service

        def promised(concrete: GenerateRequest) -> bool:
            bundle = service.find(concrete.method)
            job = bundle.job(bundle.resolve(concrete), "", arrived_s, concrete, service.answering.seconds)
            return service.engine.would_accept(job)

        body, chosen = auto.choose(body, service.measured_points(), promised)
        bundle = service.find(body.method)
        request.state.method = body.method
        sampling = bundle.resolve(body)
        service.metrics.requested_steps.labels(body.method, sampling.solver).observe(sampling.steps)
        return cls(
            service=service,
            receive=request.receive,
            caller=caller(request),
            account=getattr(request.state, "account", None),
            body=body,
            bundle=bundle,
            sampling=sampling,
            chosen=chosen,
            form=form,
            tag=responses.etag(sampling, form, body.format),
            id=correlation_id.get() or "",
            arrived_s=arrived_s,
        )

    @property
    def headers(self) -> dict[str, str]:
        """What is known of the answer before it is computed."""
        known = {"Trilemma-Seed": str(self.sampling.seed)}
        return known if self.chosen is None else {**known, "Trilemma-Chosen": self.chosen}

    async def made(self) -> Made:
        """The files. Raises what Engine.run and Desk.attend raise."""
        job, files, source = None, self.service.cache.get(self.tag), "hit"
        start_s = time.perf_counter()
        if files is None:
            source = "shared" if self._key in self.service.flights else "miss"
            job = await self.service.desk.attend(self.id, self.caller, self.receive, self._computed())
            start_s = time.perf_counter()
            files = await self.files(job)
        else:
            self.service.metrics.cache_hits.inc()
        timing, header = responses.timing(job, self.arrived_s, time.perf_counter() - start_s)
        return Made(files, timing, {**self.headers, "Trilemma-Cache": source, "Server-Timing": header})

    def json(self, files: list[bytes], timing: Timing) -> bytes:
        return responses.json(self.id, self.bundle, self.sampling, self.chosen, files, timing)

    async def run(self, job: Job) -> Job:
        """Computes the job at its key's expense. Raises what Engine.run and Account.take raise."""
        with charged(self.account, self.service.engine.scheduler.work_s(job)):
            return await self.service.engine.run(job)

    def job(self) -> Job:
        return self.bundle.job(self.sampling, self.id, self.arrived_s, self.body, self.service.answering.seconds)

    async def files(self, job: Job) -> list[bytes]:
        """The job's images as files, encoded off the event loop and kept in the cache."""
        metrics = self.service.metrics
        metrics.queue_seconds.labels(job.method).observe(max(job.started_s - self.arrived_s, 0.0))
        if job.deadline_s < math.inf:
            metrics.slack_seconds.labels(job.method).observe(job.deadline_s - job.finished_s)
        files = await asyncio.to_thread(responses.files, job, self.form, self.body.format)
        answered_s = time.perf_counter()
        self.service.answering.observe(answered_s - job.finished_s)
        tracing.record(job, answered_s)
        self.service.cache.put(self.tag, files)
        return files

    @property
    def _key(self) -> tuple[object, ...]:
        """What may share a job: the same images, as soon. A deadline is one request's own."""
        own = None if self.body.deadline_ms is None else object()
        return self.sampling, self.body.priority, own

    async def _computed(self) -> Job:
        if self._key in self.service.flights:
            self.service.metrics.shared.inc()
        return await self.service.flights.run(self._key, lambda: self.run(self.job()))
