"""The one loop, in one thread: take in jobs, choose a batch, run a step, hand on what finished; again."""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

import structlog

from service.core import Batch, Job
from service.errors import Overloaded, StepFailed, Unavailable
from service.metrics import Metrics
from service.runtime import Runtime
from service.scheduler import Scheduler

log = structlog.get_logger()

STEP_TIME_WEIGHT = 0.05  # of the newest step in the running mean of a row's step time


class Engine:
    """`run` is called on the event loop; everything with an underscore, and `step`, belongs to the engine's thread."""

    def __init__(
        self,
        runtimes: Mapping[str, Runtime],
        scheduler: Scheduler,
        metrics: Metrics,
        max_queued_images: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.runtimes = runtimes
        self.scheduler = scheduler
        self.metrics = metrics
        self.clock = clock
        self.max_queued_images = max_queued_images
        self.row_step_s = 0.0
        self._queued_images = 0  # these two belong to the event loop
        self._queued_steps = 0
        self._inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()  # None: finish what is accepted, then end
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
        """Accepts the job and waits until it is finished.

        Raises Overloaded if the queue is full, Unavailable if the engine does not run, StepFailed if a step failed.
        """
        if self._queued_images + job.n > self.max_queued_images:
            drain_s = self._queued_steps * self.row_step_s
            raise Overloaded(f"{self._queued_images} images are queued; {job.n} more are too many", drain_s)
        loop = asyncio.get_running_loop()
        finished = asyncio.Event()

        def done() -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(finished.set)

        job.done = done
        with self._gate:
            if self._closed:
                raise Unavailable("the engine is not running")
            self._inbox.put(job)
        self._queued_images += job.n
        self._queued_steps += job.n * len(job.table)
        try:
            await finished.wait()
        finally:
            self._queued_images -= job.n
            self._queued_steps -= job.n * len(job.table)
        if job.error is not None:
            raise job.error
        return job

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
            self._abandon(f"the engine stopped: {error}")

    def _take_in(self) -> bool:
        """Moves what arrived to the scheduler, waiting if there is nothing else to do; False when all is done."""
        while True:
            try:
                job = self._inbox.get(block=not self._jobs and not self._draining)
            except queue.Empty:
                if self._jobs:
                    return True
                with self._gate:
                    self._closed = self._inbox.empty()
                if self._closed:
                    return False
                continue
            if job is None:
                self._draining = True
            else:
                self._jobs[job] = None
                self.scheduler.add(job)

    def step(self) -> None:
        """One step of one batch; there are jobs."""
        batch = self.scheduler.next_batch(self.clock())
        assert batch is not None
        runtime = self.runtimes[batch.method]
        start = self.clock()
        try:
            inputs = batch.inputs()
            before = self.clock()
            x, x0 = runtime.step(inputs)
            pixels = runtime.decode(x[batch.last]) if batch.last else x[:0]
        except Exception as error:
            jobs = dict.fromkeys(image.job for image in batch.images)
            log.error("step failed", method=batch.method, requests=[job.id for job in jobs], exc_info=error)
            self._fail(jobs, f"a step of {batch.method} failed: {error}")
            return
        after = self.clock()
        for image, picture in zip(self.scheduler.advance(batch, x, x0), pixels, strict=True):
            image.pixels = picture
            job = image.job
            job.unfinished -= 1
            self.metrics.images.labels(batch.method).inc()
            if job.unfinished == 0:
                self._finish(job)
        self._measure(batch, start, before, after)

    def _finish(self, job: Job) -> None:
        del self._jobs[job]
        job.finished_s = self.clock()
        job.done()

    def _fail(self, jobs: Iterable[Job], detail: str) -> None:
        """Ends these jobs with an error; the others go on."""
        for job in jobs:
            self.scheduler.drop(job)
            job.error = StepFailed(detail)
            self._finish(job)
        self._gauge()

    def _abandon(self, detail: str) -> None:
        """Ends every job with an error, and asks nothing of the scheduler, which may be what is broken."""
        with self._gate:
            self._closed = True
        while not self._inbox.empty():
            if (job := self._inbox.get()) is not None:
                self._jobs[job] = None
        for job in list(self._jobs):
            job.error = StepFailed(detail)
            self._finish(job)
        self.metrics.active_images.set(0)
        self.metrics.waiting_images.set(0)

    def _measure(self, batch: Batch, start: float, before: float, after: float) -> None:
        rows = len(batch.images)
        row_step_s = (after - before) / rows
        weight = STEP_TIME_WEIGHT if self.row_step_s else 1.0
        self.row_step_s += weight * (row_step_s - self.row_step_s)
        metrics = self.metrics
        metrics.step_seconds.labels(batch.method).observe(after - before)
        metrics.batch_size.labels(batch.method).observe(rows)
        metrics.steps.labels(batch.method).inc(rows)
        metrics.network_seconds.inc(after - before)
        metrics.busy_seconds.inc(self.clock() - start)
        self._gauge()

    def _gauge(self) -> None:
        self.metrics.active_images.set(self.scheduler.active)
        self.metrics.waiting_images.set(self.scheduler.waiting)
