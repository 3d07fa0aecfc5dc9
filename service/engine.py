"""The one loop, in one thread: take in jobs, choose a batch, run a step, hand on what finished; again."""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import structlog

from service.admission import Admission
from service.core import Array, Batch, Job, Progress, States, stack
from service.errors import Cancelled, OutOfService, StepFailed, Unavailable
from service.metrics import Metrics
from service.runtime import Runtime
from service.scheduler import Scheduler

log = structlog.get_logger()

FAILURES = 5  # jobs of a model that fail one after the other, with no row between that succeeds: it is taken out


@dataclass(frozen=True)
class Cancel:
    """To the engine: end this job, if it has not ended."""

    job: Job


class Engine:
    """`run` is called on the event loop; everything with an underscore, and `step`, belongs to the engine's thread."""

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
        self.out_of_service: set[str] = set()  # models that kept failing
        self._failures: dict[str, int] = {}  # of each model's jobs since a row of it last succeeded
        self._inbox: queue.SimpleQueue[Job | Cancel | None] = queue.SimpleQueue()  # None: finish what is there, and end
        self._jobs: dict[Job, None] = {}  # taken in and not ended, in order of arrival
        self._draining = False
        self._closed = True
        self._gate = threading.Lock()  # between closing the inbox and putting a job into it
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)

    def start(self) -> None:
        self._closed = False
        self._thread.start()

    def stop(self) -> None:
        """Finishes every accepted job, then ends the thread."""
        self._inbox.put(None)
        self._thread.join()

    async def run(self, job: Job) -> Job:
        """Accepts the job and waits until it has ended; cancelled, it frees the job's rows before the next step.

        Raises Overloaded if it cannot be answered in time, Unavailable if the engine does not run, OutOfService if the
        model was taken out, StepFailed if a step failed.
        """
        if job.model in self.out_of_service:
            raise OutOfService(job.method)
        self.admission.admit(job, self.clock())
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def done() -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(ended.set)

        job.done = done
        try:
            with self._gate:
                if self._closed:
                    raise Unavailable("the engine is not running")
                self._inbox.put(job)
            await ended.wait()
        except asyncio.CancelledError:
            self._inbox.put(Cancel(job))
            raise
        finally:
            self.admission.release(job)
        if job.error is not None:
            raise job.error
        return job

    def restore(self, model: str) -> None:
        """Takes a model into service that was out of it, once it has been loaded anew."""
        self._failures[model] = 0
        self.out_of_service.discard(model)

    @property
    def alive(self) -> bool:
        """Whether jobs are accepted."""
        return not self._closed

    def _loop(self) -> None:
        try:
            while self._take_in():
                self.step()
        except Exception as error:  # a bug of ours: nothing more can be trusted, yet every job gets its answer
            log.critical("the engine stopped", exc_info=error)
            self._abandon()

    def _take_in(self) -> bool:
        """Moves what arrived to the scheduler, waiting if there is nothing else to do; False when all is done."""
        while True:
            try:
                message = self._inbox.get(block=not self._jobs and not self._draining)
            except queue.Empty:
                if self._jobs:
                    return True
                with self._gate:
                    self._closed = self._inbox.empty()
                if self._closed:
                    return False
                continue
            match message:
                case None:
                    self._draining = True
                case Cancel(job):
                    if job in self._jobs:
                        self._fail([job], Cancelled(job.id))
                case job:
                    self._jobs[job] = None
                    self.scheduler.add(job)

    def step(self) -> None:
        """One step of one batch; there are jobs."""
        batch = self.scheduler.next_batch(self.clock())
        assert batch is not None
        start = self.clock()
        self._run(batch)
        self.metrics.busy_seconds.inc(self.clock() - start)
        self._gauge()

    def _run(self, batch: Batch) -> None:
        """Takes the batch's step; if that fails, each row's by itself, so that only what fails alone is lost."""
        before = self.clock()
        try:
            x, x0, pixels = self._attempt(batch)
        except Exception as error:
            if len(batch.images) == 1:
                return self._lose(batch, error)
            log.warning("step failed; its rows are tried singly", method=batch.method, exc_info=error)
            for image in batch.images:
                if image.job in self._jobs:
                    self._run(Batch(batch.method, [image]))
            return None
        self._measure(batch, self.clock() - before)
        for image, picture in zip(self.scheduler.advance(batch, x, x0), pixels, strict=True):
            image.pixels = picture
            image.job.unfinished -= 1
            self.metrics.images.labels(batch.method).inc()
        self._tell(batch)
        for job in dict.fromkeys(image.job for image in batch.images):
            if job.unfinished == 0:
                self._finish(job)
        return None

    def _attempt(self, batch: Batch) -> tuple[States, States, Array]:
        """x, x0 and the images of the rows that finish. Raises what the runtime does, FloatingPointError for NaN."""
        runtime = self.runtimes[batch.images[0].job.model]
        x, x0 = runtime.step(batch.inputs())
        pixels = runtime.decode(x[batch.last]) if batch.last else np.empty(0, dtype=np.float32)
        if not all(np.isfinite(each).all() for each in (x, x0, pixels) if isinstance(each, np.ndarray)):
            raise FloatingPointError("the step gives numbers that are not finite")
        return x, x0, pixels

    def _tell(self, batch: Batch) -> None:
        for image in batch.images:
            job = image.job
            if job.watch is None:
                continue
            preview = None
            if job.preview_every and image.step % job.preview_every == 0:
                with suppress(Exception):  # the picture is a courtesy; the image itself is not touched
                    preview = self.runtimes[job.model].decode(stack([image.x0]))[0]
            with suppress(RuntimeError):  # the event loop is closed
                job.watch(Progress(image.index, image.step, len(job.table), preview))

    def _lose(self, batch: Batch, error: Exception) -> None:
        """The step of a single row failed: its job ends, and a model that does nothing but fail goes out of service."""
        job = batch.images[0].job
        log.error("step failed", method=batch.method, request=job.id, exc_info=error)
        self._fail([job], StepFailed(f"a step of {batch.method} failed; the server's log says why"))
        self._failures[job.model] = self._failures.get(job.model, 0) + 1
        if self._failures[job.model] == FAILURES:
            log.critical("model taken out of service", method=job.method, failures=FAILURES)
            self.out_of_service.add(job.model)
            self._fail([other for other in self._jobs if other.model == job.model], OutOfService(job.method))

    def _finish(self, job: Job) -> None:
        del self._jobs[job]
        for image in job.images:
            image.let_go()
        job.finished_s = self.clock()
        if job.finished_s > job.deadline_s and job.error is None:
            self.metrics.missed_deadlines.labels(job.method).inc()
        job.done()

    def _fail(self, jobs: Iterable[Job], error: Exception) -> None:
        """Ends these jobs with an error; the others go on."""
        for job in jobs:
            self.scheduler.drop(job)
            job.error = error
            self._finish(job)
        self._gauge()

    def _abandon(self) -> None:
        """Ends every job with an error, and asks nothing of the scheduler, which may be what is broken."""
        with self._gate:
            self._closed = True
        while not self._inbox.empty():
            if isinstance(message := self._inbox.get(), Job):
                self._jobs[message] = None
        for job in list(self._jobs):
            job.error = StepFailed("the engine stopped; the server's log says why")
            self._finish(job)
        self.metrics.active_images.set(0)
        self.metrics.waiting_images.set(0)

    def _measure(self, batch: Batch, seconds: float) -> None:
        rows, model, metrics = len(batch.images), batch.images[0].job.model, self.metrics
        self._failures[model] = 0
        self.scheduler.costs.observe(model, rows, max(seconds, 1e-6))
        metrics.step_seconds.labels(batch.method).observe(seconds)
        metrics.batch_size.labels(batch.method).observe(rows)
        metrics.steps.labels(batch.method).inc(rows)
        metrics.network_seconds.inc(seconds)

    def _gauge(self) -> None:
        self.metrics.active_images.set(self.scheduler.active)
        self.metrics.waiting_images.set(self.scheduler.waiting)
