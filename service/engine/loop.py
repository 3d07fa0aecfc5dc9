"""The loop, in a few threads: choose a batch, run a step of it, hand on what finished; again.

Each worker's network runs beside the others'; all else happens under one lock, whose holder owns the jobs.
"""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np
import structlog

from service.engine.admission import Admission
from service.engine.jobs import Array, Batch, Image, Job, Progress, States
from service.engine.scheduler import Scheduler
from service.errors import Cancelled, OutOfService, Problem, StepFailed, Unavailable
from service.runtimes.cpu import Runtime
from service.telemetry.metrics import Metrics

log = structlog.get_logger()

FAILURES = 5  # jobs of a model that fail one after the other, with no row between that succeeds: it is taken out


@dataclass(frozen=True)
class Stepped:
    """What a step of a batch gives."""

    x: States
    x0: States
    pixels: dict[Image, Array]  # of the rows that finish
    previews: dict[Image, Array]  # of the rows whose callers want a picture now
    seconds: float


class Engine:
    """`run` is called on the event loop, `start` and `stop` elsewhere; from `_work` on all belongs to the workers."""

    def __init__(
        self,
        runtimes: dict[str, Runtime],  # by model
        scheduler: Scheduler,
        metrics: Metrics,
        max_queued_images: int,
        max_backlog_s: float = 60.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.runtimes = runtimes
        self.scheduler = scheduler
        self.metrics = metrics
        self.clock = clock
        self.admission = Admission(scheduler, max_queued_images, max_backlog_s)
        self.jobs: set[Job] = set()  # accepted and not ended
        self.out_of_service: set[str] = set()  # models that kept failing
        self._failures: dict[str, int] = {}  # of each model's jobs since a row of it last succeeded
        self._idle = 0  # workers that wait for a batch
        self._draining = False
        self._closed = True
        self._changed = threading.Condition()  # over all of the above
        metrics.active_images.set_function(lambda: self._images("active"))
        metrics.waiting_images.set_function(lambda: self._images("waiting"))
        names = [f"engine-{number}" for number in range(scheduler.workers)]
        self._workers = [threading.Thread(target=self._work, name=name, daemon=True) for name in names]

    def start(self) -> None:
        self._closed = False
        for worker in self._workers:
            worker.start()

    def stop(self) -> None:
        """Finishes every accepted job, then ends the threads."""
        with self._changed:
            self._draining = True
            self._changed.notify_all()
        for worker in self._workers:
            worker.join()

    async def run(self, job: Job) -> Job:
        """Accepts the job and waits until it has ended; cancelled, it frees the job's rows before the next step.

        Raises Overloaded if it cannot be answered in time, Unavailable if the engine does not run, OutOfService if the
        model was taken out, StepFailed if a step failed.
        """
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def done() -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(ended.set)

        job.done = done
        self._accept(job)
        try:
            await ended.wait()
        except asyncio.CancelledError:
            with self._changed:
                self._fail([job] if job in self.jobs else [], Cancelled(job.id))
            raise
        if job.error is not None:
            raise job.error
        return job

    def would_accept(self, job: Job) -> bool:
        """Whether the job would be accepted now."""
        with self._changed:
            try:
                self._ask(self.admission.check, job)
            except Problem:
                return False
            return True

    def restore(self, model: str) -> None:
        """Takes a model into service that was out of it, once it has been loaded anew."""
        with self._changed:
            self._failures[model] = 0
            self.out_of_service.discard(model)

    @property
    def alive(self) -> bool:
        """Whether jobs are accepted."""
        return not self._closed

    def _accept(self, job: Job) -> None:
        with self._changed:
            self._ask(self.admission.admit, job)
            self.jobs.add(job)
            self._changed.notify(job.n)

    def _ask(self, admission: Callable[[Job, float], None], job: Job) -> None:
        """Raises what `run` raises of a job that is not accepted."""
        if self._closed:
            raise Unavailable("the engine is not running")
        if job.model in self.out_of_service:
            raise OutOfService(job.method)
        try:
            admission(job, self.clock())
        except Problem:
            raise
        except Exception as error:  # a bug of ours
            self._abandon(error)
            raise StepFailed("the engine stopped; the server's log says why") from error

    def _work(self) -> None:
        """A worker's life."""
        try:
            while (batch := self._next()) is not None:
                start = self.clock()
                self._run(batch)
                self.metrics.busy_seconds.inc((self.clock() - start) / self.scheduler.workers)
        except Exception as error:  # a bug of ours: nothing more can be trusted, yet every job gets its answer
            with self._changed:
                self._abandon(error)

    def _next(self) -> Batch | None:
        """The next batch, waiting for one; None when all is done."""
        with self._changed:
            self._idle += 1
            while not self._closed:
                if (batch := self.scheduler.next_batch(self.clock(), self._idle)) is not None:
                    self._idle -= 1
                    if self.scheduler.ready:
                        self._changed.notify()
                    return batch
                assert not self.jobs or self.scheduler.running.total(), "jobs, and none of their rows to run"
                if self._draining and not self.jobs:
                    self._closed = True
                    self._changed.notify_all()
                else:
                    self._changed.wait()
        return None

    def _run(self, batch: Batch) -> None:
        """Takes the batch's step; if that fails, each row's by itself, so that only what fails alone is lost."""
        try:
            stepped = self._attempt(batch)
        except Exception as error:
            if len(batch.images) == 1:
                with self._changed:
                    self._lose(batch, error)
                return
            log.warning("step failed; its rows are tried singly", method=batch.method, exc_info=error)
            for image in batch.images:
                if image.running:
                    self._run(Batch(batch.method, [image]))
                else:
                    image.let_go()
            return
        with self._changed:
            self._settle(batch, stepped)
        self._count(batch, stepped)

    def _attempt(self, batch: Batch) -> Stepped:
        """A step, off the lock, as its rows are this worker's. Raises what the runtime does, and FloatingPointError."""
        start = self.clock()
        runtime = self.runtimes[batch.images[0].job.model]
        x, x0 = runtime.step(batch.inputs())
        pixels = runtime.decode(x[batch.last]) if batch.last else np.empty(0, dtype=np.float32)
        if not (is_finite(x) and is_finite(pixels)):  # x0 is a part of x
            raise FloatingPointError("the step gives numbers that are not finite")
        seconds = self.clock() - start
        previews = {}
        for row, image in enumerate(batch.images):
            if image.job.watch and image.job.preview_every and (image.step + 1) % image.job.preview_every == 0:
                with suppress(Exception):  # the picture is a courtesy; the image itself is not touched
                    previews[image] = runtime.decode(x0[row : row + 1])[0]
        return Stepped(
            x, x0, dict(zip((batch.images[row] for row in batch.last), pixels, strict=True)), previews, seconds
        )

    def _settle(self, batch: Batch, stepped: Stepped) -> None:
        """Gives the rows what the step made of them, and ends the jobs that it finished."""
        model = batch.images[0].job.model
        self._failures[model] = 0
        self.scheduler.costs.observe(model, len(batch.images), max(stepped.seconds, 1e-6))
        for image in self.scheduler.advance(batch, stepped.x, stepped.x0):
            image.pixels = stepped.pixels[image]
            image.job.unfinished -= 1
        for image in batch.images:
            if image.job.watch is not None and image.job in self.jobs:
                with suppress(RuntimeError):  # the event loop is closed
                    preview = stepped.previews.get(image)
                    image.job.watch(Progress(image.index, image.step, len(image.job.table), preview))
        for job in dict.fromkeys(image.job for image in batch.images):
            if job.unfinished == 0 and job in self.jobs:
                self._finish(job)
        for image in batch.images:
            if image.finished or image.job not in self.jobs:
                image.let_go()

    def _lose(self, batch: Batch, error: Exception) -> None:
        """The step of a single row failed: its job ends, and a model that does nothing but fail goes out of service."""
        job = batch.images[0].job
        log.error("step failed", method=batch.method, request=job.id, exc_info=error)
        batch.images[0].let_go()
        if job not in self.jobs:
            return
        self._failures[job.model] = self._failures.get(job.model, 0) + 1
        gone = self._failures[job.model] == FAILURES
        if gone:
            log.critical("model taken out of service", method=job.method, failures=FAILURES)
            self.out_of_service.add(job.model)  # before the caller can know of the failure, and ask again
        self._fail([job], StepFailed(f"a step of {batch.method} failed; the server's log says why"))
        if gone:
            self._fail([other for other in self.jobs if other.model == job.model], OutOfService(job.method))

    def _finish(self, job: Job) -> None:
        self.jobs.remove(job)
        job.finished_s = self.clock()
        if job.finished_s > job.deadline_s and job.error is None:
            self.metrics.missed_deadlines.labels(job.method).inc()
        job.done()

    def _fail(self, jobs: Iterable[Job], error: Exception) -> None:
        """Ends these jobs with an error; the others go on."""
        for job in jobs:
            idle = [image for image in job.images if not image.running]  # a worker reads the others' states
            self.scheduler.drop(job)
            job.error = error
            self._finish(job)
            for image in idle:
                image.let_go()

    def _abandon(self, error: Exception) -> None:
        """Ends every job with an error, and asks nothing of the scheduler, which may be what is broken."""
        log.critical("the engine stopped", exc_info=error)
        self._closed = True
        for job in list(self.jobs):
            job.error = StepFailed("the engine stopped; the server's log says why")
            self._finish(job)
        self._changed.notify_all()

    def _count(self, batch: Batch, stepped: Stepped) -> None:
        rows, metrics = len(batch.images), self.metrics
        metrics.step_seconds.labels(batch.method).observe(stepped.seconds)
        metrics.batch_size.labels(batch.method).observe(rows)
        metrics.steps.labels(batch.method).inc(rows)
        metrics.images.labels(batch.method).inc(len(stepped.pixels))
        metrics.network_seconds.inc(stepped.seconds / self.scheduler.workers)

    def _images(self, which: Literal["active", "waiting"]) -> int:
        """How many the scheduler has; none once the engine has stopped, whatever broke it."""
        with self._changed:
            return 0 if self._closed else getattr(self.scheduler, which)


def is_finite(x: States) -> bool:
    """Whether all numbers are, of what is an array; a device's states say so themselves."""
    if not isinstance(x, np.ndarray) or not x.size:
        return True
    # One product is quicker than a look at each number. Where it is finite they are; large ones make it infinite too.
    return math.isfinite(np.vdot(x, x)) or bool(np.isfinite(x).all())
