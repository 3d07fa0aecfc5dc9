"""What the machine could do for one more request: how long it would wait, and what is left to spare. Pure.

Balancers and autoscalers read it. Admission promises upper bounds; these are estimates, too early as often as too late.
"""

import math
from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, replace

from service.engine.jobs import Job
from service.engine.scheduler import DUE_FACTOR, Scheduler

MAX_PLACED = 512  # jobs put into batches for one prediction; what is due after them counts as full batches
ROUNDING = 1e-9  # jobs whose ends differ by less, as a share, end together


@dataclass(eq=False, slots=True)
class Remainder:
    """What is left of a job: images, and steps of them all, each of `rows` rows."""

    model: str
    due_s: float
    rows: int
    images: int
    running: int  # images in a batch
    steps: float

    @classmethod
    def of(cls, job: Job) -> "Remainder":
        images = [image for image in job.images if not image.finished]
        running = sum(image.running for image in images)
        return cls(job.model, job.due_s, job.rows, len(images), running, job.steps_left)


class Speeds:
    """Seconds of a step by rows, and the steps a second of full batches on all workers, of one model."""

    def __init__(self, scheduler: Scheduler, model: str) -> None:
        self.full = scheduler.efficient_batch_size(model)
        self._step_s = [scheduler.costs.seconds(model, rows) for rows in range(1, max(2, self.full) + 1)]
        self.capacity = scheduler.workers * self.full / self.step_s(self.full)
        self._workers = scheduler.workers

    def step_s(self, rows: int) -> float:
        return self._step_s[rows - 1]

    def share(self, rows: int) -> float:
        """The share of the capacity that so many rows use."""
        each = min(math.ceil(rows / self._workers), self.full)
        return min(rows / self.step_s(each) / self.capacity, 1.0) if rows else 0.0


class Forecast:
    """Copies what it reads of the scheduler and of the utilisation that admission has promised, both by model."""

    def __init__(self, scheduler: Scheduler, promised: Mapping[str, float], models: Iterable[str], now: float) -> None:
        self.promised = defaultdict[str, float](float, promised)
        self.now = now
        self.workers = scheduler.workers
        self._jobs = [Remainder.of(job) for job in scheduler.jobs]
        self._speeds = {model: Speeds(scheduler, model) for model in {*models, *(job.model for job in self._jobs)}}
        rows = Counter[str]()
        for job in self._jobs:
            rows[job.model] += job.images * job.rows
        shares = sum(self._speeds[model].share(n) for model, n in rows.items())
        self.utilization = min(shares, 1.0)  # the share of its largest throughput that is in use

    @property
    def models(self) -> Set[str]:
        """Those that it knows: they can be asked for."""
        return self._speeds.keys()

    def alone_s(self, model: str, steps: int) -> float:
        """Seconds of these steps of one image on an idle machine."""
        return steps * self._speeds[model].step_s(1)

    def wait_s(self, model: str, steps: int) -> float:
        """How much later a request of an image would end than it does alone, if it came now; 0 if nothing is queued.

        It has so many network evaluations, normal priority, and no deadline.
        """
        if not self._jobs:
            return 0.0
        alone_s = self.alone_s(model, steps)
        request = Remainder(model, self.now + DUE_FACTOR["normal"] * alone_s, 1, 1, 0, steps)
        return max(Phases(self._jobs, self._speeds, self.workers).end_s(request) - alone_s, 0.0)

    def spare_steps_per_s(self, model: str) -> float:
        """Steps a second of this model that the machine could do beside what it does now."""
        return self._speeds[model].capacity * (1 - self.utilization)


Batch = list[tuple[Remainder, int]]  # jobs, and how many images of each


class Phases:
    """The policy's batches, without a deadline's yielding, as they follow each other until a request ends.

    In a phase the batches stay the same, up to the next end of a job. Then every worker chooses again, as
    `Scheduler.next_batch` does.
    """

    def __init__(self, jobs: list[Remainder], speeds: Mapping[str, Speeds], workers: int) -> None:
        self.speeds = speeds
        self.jobs = [replace(job, running=0) for job in jobs[:MAX_PLACED]]
        self.behind = jobs[MAX_PLACED:]
        self.queues = defaultdict[str, list[Remainder]](list)  # by model, in order of due times
        for job in self.jobs:
            self.queues[job.model].append(job)
        self.batches: list[Batch] = [[] for _ in range(workers)]  # by worker
        for worker, model in enumerate(self._models_of_workers(jobs)):
            self.batches[worker] = self._take(model)

    def end_s(self, request: Remainder) -> float:
        """Seconds until the request ends, if it comes now; workers in a step come back after half of it."""
        if self.behind and self.behind[0].due_s <= request.due_s:
            return self._full_batches_s(request)
        steps_s = [self._step_s(batch) for batch in self.batches if batch]
        elapsed_s = min(steps_s) / 2 if len(steps_s) == len(self.batches) else 0.0
        insort(self.queues[request.model], request, key=lambda job: job.due_s)
        placed = 0
        while placed < MAX_PLACED:
            self._choose_all()
            steps_per_s = defaultdict[Remainder, float](float)
            for batch in filter(None, self.batches):
                for job, images in batch:
                    steps_per_s[job] += images / self._step_s(batch)
            placed += len(steps_per_s)
            phase_s = min(job.steps / speed for job, speed in steps_per_s.items())
            elapsed_s += phase_s
            ended = {job for job, speed in steps_per_s.items() if job.steps <= speed * phase_s * (1 + ROUNDING)}
            if request in ended:
                return elapsed_s
            for job, speed in steps_per_s.items():
                job.steps -= speed * phase_s
            for job in ended:
                self.queues[job.model].remove(job)
            self.batches = [[(job, images) for job, images in batch if job not in ended] for batch in self.batches]
        return elapsed_s + self._full_batches_s(request)

    def _models_of_workers(self, jobs: list[Remainder]) -> list[str]:
        """What the busy workers compute: each model has one at least, and those with more rows have more."""
        rows, workers = Counter[str](), Counter[str]()
        for job in jobs:
            if job.running:
                rows[job.model] += job.running * job.rows
        for _ in range(min(len(self.batches), rows.total())):
            fullest = max(rows, key=lambda model: (not workers[model], rows[model] / (workers[model] + 1)))
            workers[fullest] += 1
        return list(workers.elements())

    def _choose_all(self) -> None:
        """Every worker chooses, those without work first. If they find none, a busy one shares when it comes back."""
        idle = [worker for worker, batch in enumerate(self.batches) if not batch]
        busy = [worker for worker, batch in enumerate(self.batches) if batch]
        for worker in (*idle, *busy, *idle):
            if worker in busy or not self.batches[worker]:
                self._choose(worker)

    def _choose(self, worker: int) -> None:
        """A worker comes back, and takes its next batch: of the model whose free image is due first."""
        for job, images in self.batches[worker]:
            job.running -= images
        self.batches[worker] = []
        heads = (next((job for job in queue if job.images > job.running), None) for queue in self.queues.values())
        first = min(filter(None, heads), key=lambda job: job.due_s, default=None)
        if first is not None:
            self.batches[worker] = self._take(first.model)

    def _take(self, model: str) -> Batch:
        """The model's free images for one of the idle workers."""
        full, idle = self.speeds[model].full, sum(not batch for batch in self.batches)
        free, rows = list[Remainder](), 0
        for job in self.queues[model]:
            if rows >= idle * full:
                break
            if job.images > job.running:
                free.append(job)
                rows += (job.images - job.running) * job.rows
        most = min(full, math.ceil(rows / idle))
        batch: Batch = []
        for job in free:
            images = min(job.images - job.running, max(most // job.rows, 0 if batch else 1))
            if not images:
                break
            most -= images * job.rows
            job.running += images
            batch.append((job, images))
        return batch

    def _step_s(self, batch: Batch) -> float:
        return self.speeds[batch[0][0].model].step_s(sum(images * job.rows for job, images in batch))

    def _full_batches_s(self, request: Remainder) -> float:
        """Seconds of what is left and due before the request, and of itself, all in full batches."""
        queued = [job for queue in (*self.queues.values(), self.behind) for job in queue if job is not request]
        before = [job for job in queued if job.due_s <= request.due_s]
        speeds = self.speeds[request.model]
        own_s = request.steps * speeds.step_s(speeds.full)
        return own_s + sum(job.steps * job.rows / self.speeds[job.model].capacity for job in before)
