"""One resolved request on its way to its answer: from the cache, from an identical one in flight, or computed."""

import asyncio
import time
from dataclasses import dataclass

from fastapi import Response
from starlette.types import Receive

from service import answer, tracing
from service.bundle import Bundle, Sampling
from service.core import Job
from service.keys import Account, charged
from service.schemas import GenerateRequest, Timing
from service.service import Service


@dataclass(frozen=True)
class Generation:
    service: Service
    account: Account | None  # that the work is charged to
    body: GenerateRequest
    bundle: Bundle
    sampling: Sampling
    chosen: str | None  # by method auto: which measured point this is, and why
    form: str  # media type of the answer
    tag: str
    id: str
    arrived_s: float

    async def response(self, receive: Receive, headers: dict[str, str]) -> Response:
        """The answer; `Trilemma-Cache` says where it came from. Raises what Engine.run and Desk.attend raise."""
        job, files = None, self.service.cache.get(self.tag)
        headers["Trilemma-Cache"] = "hit"
        start_s = time.perf_counter()
        if files is None:
            headers["Trilemma-Cache"] = "shared" if self._key in self.service.flights else "miss"
            job = await self.service.desk.attend(self.id, receive, self._computed())
            start_s = time.perf_counter()
            files = await self.files(job)
        else:
            self.service.metrics.cache_hits.inc()
        timing, headers["Server-Timing"] = answer.timing(job, self.arrived_s, time.perf_counter() - start_s)
        if self.form != answer.JSON:
            return Response(files[0], media_type=self.form, headers=headers)
        return Response(self.json(files, timing), media_type=answer.JSON, headers=headers)

    def json(self, files: list[bytes], timing: Timing) -> bytes:
        return answer.json(self.id, self.bundle, self.sampling, self.chosen, files, timing)

    async def run(self, job: Job) -> Job:
        """Computes the job at its key's expense. Raises what Engine.run and Account.take raise."""
        with charged(self.account, self.service.engine.scheduler.work_s(job)):
            return await self.service.engine.run(job)

    def job(self) -> Job:
        return self.bundle.job(self.sampling, self.id, self.arrived_s, self.body)

    async def files(self, job: Job) -> list[bytes]:
        """The job's images as files, encoded off the event loop and kept in the cache."""
        self.service.metrics.queue_seconds.labels(job.method).observe(max(job.started_s - self.arrived_s, 0.0))
        files = await asyncio.to_thread(answer.files, job, self.form, self.body.format)
        tracing.record(job, answered_s=time.perf_counter())
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
