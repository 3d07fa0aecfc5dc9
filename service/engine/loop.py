"""The engine: worker threads that repeat three actions: choose a batch, run its step, and end the finished jobs.

The workers' networks run in parallel. All else happens under one lock, whose holder owns the jobs.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Literal, Protocol

import structlog

from service.engine.admission import Admission
from service.engine.attempt import StepResult, attempt
from service.engine.forecast import Forecast
from service.engine.jobs import Batch, Job, Progress
from service.engine.runtime import Runtime
from service.engine.scheduler import Scheduler
from service.errors import Cancelled, OutOfService, Problem, StepFailed, Unavailable

log = structlog.get_logger()

FAILURES = 5  # failed jobs of a model in a row, with no successful row between, after which it is out of service
STOPPED = "the engine stopped; the server's log says why"


class Observer(Protocol):
    """Gets the engine's figures, for metrics."""

    def stepped(self, method: str, rows: int, finished: int, seconds: float, share: float) -> None: ...
    def busy(self, seconds: float) -> None: ...
    def missed_deadline(self, method: str) -> None: ...


class Engine:
    """`submit` is called on the event loop, `start` and `stop` elsewhere; the private verbs are the workers'.

    A worker: `_next_batch` → `_run` → `attempt`, off the lock → `_settle` → `_finish` each job that is done.
    A batch that fails is tried row by row; a row that fails alone ends its job (`_lose`). A model that keeps failing is
    taken out of service. A bug in the engine itself ends every job with an error (`_abandon`).
    """

    def __init__(
        self,
        runtimes: dict[str, Runtime],  # by model digest
        scheduler: Scheduler,
        admission: Admission,
        observer: Observer,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.runtimes = runtimes
        self.scheduler = scheduler
        self.admission = admission
        self.observer = observer
        self.clock = clock
        self.jobs: set[Job] = set()  # accepted and not ended
        self.out_of_service: set[str] = set()  # models that kept failing
        self._failures: dict[str, int] = {}  # of each model's jobs since a row of it last succeeded
        self._idle = 0  # workers that wait for a batch
        self._draining = False
        self._closed = True
        self._changed = threading.Condition()  # over all of the above
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
            if worker.is_alive():  # it is not if the engine was never started
                worker.join()

    def submit(self, job: Job) -> asyncio.Future[Job]:
        """Accepts the job. The future ends with it; cancelling the future frees the job's rows before the next step.

        Raises at once: Overloaded if it cannot be answered in time, Unavailable if the engine does not run,
        OutOfService if the model was taken out. The future raises StepFailed if a step failed, or OutOfService.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Job] = loop.create_future()

        def done() -> None:
            with suppress(RuntimeError):  # the event loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_resolve, future, job)

        job.done = done
        with self._changed:
            self._require_running(job)
            try:
                self.admission.admit(job, self.clock())
            except Problem:
                raise
            except Exception as error:  # a bug of ours
                self._abandon(error)
                raise StepFailed(STOPPED) from error
            self.jobs.add(job)
            self._changed.notify(job.n)
        future.add_done_callback(lambda ended: self.cancel(job) if ended.cancelled() else None)
        return future

    def would_accept(self, job: Job) -> bool:
        """Whether the job would be accepted now."""
        with self._changed:
            try:
                self._require_running(job)
                self.admission.quote(job, self.clock())
            except Problem:
                return False
            return True

    def forecast(self) -> Forecast:
        """What one more request would meet now. Raises Unavailable if the engine does not run."""
        with self._changed:
            if self._closed:
                raise Unavailable("the engine is not running")
            now = self.clock()
            models = self.runtimes.keys() - self.out_of_service
            return Forecast(self.scheduler, self.admission.promised_utilization(now), models, now)

    def cancel(self, job: Job) -> None:
        """Ends the job, unless it has ended."""
        with self._changed:
            if job in self.jobs:
                self._fail([job], Cancelled(job.id))

    def predicted_work_s(self, job: Job) -> float:
        """Seconds of the network that the job takes alone, on one worker."""
        with self._changed:
            return self.scheduler.work_s(job)

    def install(self, model: str, runtime: Runtime, curve: dict[int, float], preview_s: float = 0.0) -> None:
        """Takes a loaded model into service; `curve` is its seconds a step by rows, `preview_s` those of a preview."""
        with self._changed:
            self.runtimes[model] = runtime
            self.scheduler.costs.set(model, curve, preview_s)
            self._failures[model] = 0
            self.out_of_service.discard(model)

    def retain(self, models: set[str]) -> None:
        """Drops the runtimes of all other models, except those that an accepted job still needs."""
        with self._changed:
            needed = models | {job.model for job in self.jobs}
            for model in set(self.runtimes) - needed:
                del self.runtimes[model]

    @property
    def alive(self) -> bool:
        """Whether jobs are accepted."""
        return not self._closed

    def images(self, which: Literal["active", "waiting"]) -> int:
        """How many images the scheduler has; 0 once the engine has stopped, as the scheduler may be what broke."""
        with self._changed:
            return 0 if self._closed else getattr(self.scheduler, which)

    def _require_running(self, job: Job) -> None:
        if self._closed:
            raise Unavailable("the engine is not running")
        if job.model in self.out_of_service:
            raise OutOfService(job.method)
        if job.model not in self.runtimes:
            raise Unavailable(f"{job.method} was replaced; send the request again")

    def _work(self) -> None:
        """A worker's thread: runs batches until the engine stops."""
        try:
            while (batch := self._next_batch()) is not None:
                start_s = self.clock()
                self._run(batch)
                self.observer.busy((self.clock() - start_s) / self.scheduler.workers)
        except Exception as error:  # a bug of ours: the state may be wrong, but every job must get an answer
            with self._changed:
                self._abandon(error)

    def _next_batch(self) -> Batch | None:
        """The next batch, after waiting for one; None once the engine has stopped."""
        with self._changed:
            self._idle += 1
            while not self._closed:
                if (batch := self.scheduler.next_batch(self.clock(), self._idle)) is not None:
                    self._idle -= 1
                    if self.scheduler.ready:
                        self._changed.notify()
                    return batch
                assert not self.jobs or self.scheduler.counts.running.total(), "jobs, and none of their rows to run"
                if self._draining and not self.jobs:
                    self._closed = True
                    self._changed.notify_all()
                else:
                    self._changed.wait()
        return None

    def _run(self, batch: Batch) -> None:
        """Takes the batch's step. If it fails, it takes each image's step alone, so that only faulty jobs are lost."""
        try:
            result = attempt(batch, self.runtimes[batch.model], self.clock)
        except Exception as error:
            if len(batch.images) == 1:
                with self._changed:
                    self._lose(batch, error)
                return
            log.warning("step failed; its rows are tried singly", method=batch.method, exc_info=error)
            for image in batch.images:
                if image.running:
                    self._run(Batch([image]))
                else:
                    image.release()
            return
        with self._changed:
            self._settle(batch, result)
        rows, finished, share = batch.rows, len(result.pixels), 1 / self.scheduler.workers
        self.observer.stepped(batch.method, rows, finished, result.seconds, share)

    def _settle(self, batch: Batch, result: StepResult) -> None:
        """Gives the rows their new states, and ends the jobs that it finished."""
        self._failures[batch.model] = 0
        self.scheduler.costs.observe(batch.model, batch.rows, max(result.seconds, 1e-6))
        if result.previews:
            self.scheduler.costs.observe_preview(batch.model, max(result.preview_s, 1e-9))
        for lane, nats in result.terms.items():
            lane.nats.append(nats)
        for image in self.scheduler.advance(batch, result.x, result.x0):
            if image in result.pixels:
                image.pixels = result.pixels[image]
            image.job.unfinished -= 1
        for image in batch.images:
            if image.job.watch is not None and image.job in self.jobs:
                with suppress(RuntimeError):  # the event loop is closed
                    preview = result.previews.get(image)
                    image.job.watch(Progress(image.index, image.step, image.job.steps, preview))
        for job in dict.fromkeys(image.job for image in batch.images):
            if job.unfinished == 0 and job in self.jobs:
                self._finish(job)
        for image in batch.images:
            if image.finished or image.job not in self.jobs:
                image.release()

    def _lose(self, batch: Batch, error: Exception) -> None:
        """Ends the job of an image whose step failed alone; a model that keeps failing goes out of service."""
        job = batch.images[0].job
        log.error("step failed", method=batch.method, request=job.id, exc_info=error)
        batch.images[0].release()
        if job not in self.jobs:
            return
        self._failures[job.model] = self._failures.get(job.model, 0) + 1
        keeps_failing = self._failures[job.model] == FAILURES
        if keeps_failing:
            log.critical("model taken out of service", method=job.method, failures=FAILURES)
            self.out_of_service.add(job.model)  # before the caller gets the failure, and may send another request
        self._fail([job], StepFailed(f"a step of {batch.method} failed; the server's log says why"))
        if keeps_failing:
            self._fail([other for other in self.jobs if other.model == job.model], OutOfService(job.method))

    def _finish(self, job: Job) -> None:
        self.jobs.remove(job)
        job.finished_s = self.clock()
        if job.finished_s > job.deadline_s and job.error is None:
            self.observer.missed_deadline(job.method)
        job.done()

    def _fail(self, jobs: Iterable[Job], error: Exception) -> None:
        """Ends these jobs with an error; the others go on."""
        for job in jobs:
            idle = [image for image in job.images if not image.running]  # a worker still reads the other states
            self.scheduler.drop(job)
            job.error = error
            self._finish(job)
            for image in idle:
                image.release()

    def _abandon(self, error: Exception) -> None:
        """Ends every job with an error, without the scheduler, which may be what broke."""
        log.critical("the engine stopped", exc_info=error)
        self._closed = True
        for job in list(self.jobs):
            job.error = StepFailed(STOPPED)
            self._finish(job)
        self._changed.notify_all()


def _resolve(future: asyncio.Future[Job], job: Job) -> None:
    if future.done():
        return
    if job.error is None:
        future.set_result(job)
    else:
        future.set_exception(job.error)
