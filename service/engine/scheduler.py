"""The policy: which images take the next step together. Pure: it knows no clock, thread, lock or I/O.

Earliest due first. A job's due time is its deadline or, without one, its arrival plus STRETCH times the work it is: the
less work, the sooner, and the older, the nearer the front. Due times do not change, so that

- what was accepted with a deadline is met: no order that may interrupt between two steps meets more deadlines on one
  machine (Liu and Layland 1973), and `admission` lets nothing in that breaks one, by the bound in `ends`;
- nothing starves: what arrives after a job is due is due later still. So a job of w seconds, due D seconds after its
  arrival, ends within D + B, where B is the work accepted by then, each step counted as one of a full batch (rows that
  ride along cost that much at most): a slowdown of at most STRETCH + B / w.

A job that has a deadline and much left to do gives way to a model with more rows, as a row costs less in a larger
batch, while by the same bound, with EASE, that breaks no promise of those who wait: each is then kept in time rather
than before it.
"""

import math
from bisect import insort
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from service.engine.costs import Costs
from service.engine.jobs import Batch, Image, Job, States
from service.http.schemas import Priority

STRETCH: dict[Priority, float] = {"high": 15.0, "normal": 50.0, "low": 200.0}  # due time over work
MARGIN = 1.25  # on predicted work, where a deadline hangs on it
EASE = 1.5  # the same, where one is risked for the sake of throughput
BRIEF = 8  # steps of a fuller batch: a job that takes less than that gives way to none


class Scheduler:
    """Jobs in order of their due times, and of arrival where those are equal; images of a job in order of index.

    `workers` is how many steps run at a time.
    """

    def __init__(self, max_batch: int, costs: Costs | None = None, workers: int = 1) -> None:
        self.max_batch = max_batch
        self.costs = costs or Costs()
        self.workers = workers
        self.jobs: list[Job] = []  # not finished
        self.waiting = 0  # images not begun
        self.running: Counter[str] = Counter()  # images in a batch that has not come back, by model
        self.unfinished: Counter[str] = Counter()  # images, by model
        self.steps_left: Counter[str] = Counter()  # of all images, by model

    def add(self, job: Job) -> None:
        insort(self.jobs, job, key=lambda each: each.due_s)
        self.waiting += job.n
        self.unfinished[job.model] += job.n
        self.steps_left[job.model] += job.steps_left

    @property
    def active(self) -> int:
        """Images begun and not finished."""
        return self.unfinished.total() - self.waiting

    @property
    def ready(self) -> int:
        """Images that could take a step now."""
        return self.unfinished.total() - self.running.total()

    def rows(self, model: str) -> int:
        """The most rows of a batch: as many as pay."""
        return self.costs.paying(model, self.max_batch)

    def work_s(self, job: Job) -> float:
        """Seconds that what is left of a job takes alone, on one worker."""
        left = [len(job.table) - image.step for image in job.images if not image.finished]
        most, total = self.rows(job.model), 0.0
        while left:
            rows = min(most, len(left))
            steps = min(left[:rows])
            total += steps * self.costs.seconds(job.model, rows)
            left = [k for k in (*(k - steps for k in left[:rows]), *left[rows:]) if k > 0]
        return total

    def row_s(self, model: str) -> float:
        """A row's share of a step, with the model's rows that there are shared by the workers."""
        rows = math.ceil(self.unfinished[model] / self.workers)
        rows = min(max(rows, 1), self.rows(model))
        return self.costs.seconds(model, rows) / rows

    def ends(
        self, order: Sequence[Job], unfinished: Mapping[str, int], now: float, margin: float = MARGIN
    ) -> Iterator[tuple[Job, float]]:
        """Of jobs in this order, with so many images by model, each that has a deadline: the time by which it ends.

        A job waits while every worker is busy with what is due before it. So it ends within the step under way, the
        work before it shared by the workers, and its own alone (Graham 1969). Rows of its own model before it are in
        full batches, else it would ride along; another model's may have room: then each step of its longest job counts
        as one of all rows that the model has.
        """
        full_s = {model: self._step_s(model, rows) for model, rows in unfinished.items()}
        row_s = {model: self.row_s(model) for model in unfinished}
        now += max((self._step_s(model, rows) for model, rows in self.running.items() if rows), default=0.0)
        before_s = 0.0
        room_s = dict.fromkeys(unfinished, 0.0)  # and what it may be more, with all the model's rows in every batch
        last = max((i for i, job in enumerate(order) if job.deadline_s < math.inf), default=-1)
        for job in order[: last + 1]:
            model = job.model
            if job.deadline_s < math.inf:
                waits_s = (before_s + sum(room_s.values()) - room_s[model]) / self.workers
                yield job, now + margin * (waits_s + self.work_s(job))
            before_s += job.steps_left * row_s[model]
            room_s[model] = max(room_s[model], job.longest_left * (full_s[model] - row_s[model]))

    def next_batch(self, now: float, idle: int = 1) -> Batch | None:
        """Rows of the model whose turn it is, in order of due times; None when none is ready.

        As many as pay, or fewer where that leaves some for each of the `idle` workers or keeps a deadline.
        """
        if not self.ready:
            return None
        rows = self._ready(self._turn(now), idle)
        most = self.rows(rows[0].job.model)
        rows = rows[: min(most, math.ceil(len(rows) / idle))]
        rows = rows[: self._affordable(rows, now)]
        for image in rows:
            image.running = True
            if not image.begun:
                image.begin()
                image.job.started_s = image.job.started_s or now
                self.waiting -= 1
        self.running[rows[0].job.model] += len(rows)
        return Batch(rows[0].job.method, rows)

    def advance(self, batch: Batch, x: States, x0: States) -> list[Image]:
        """Gives each row its new state, x and x0 (n, C, H, W); returns the images that finished.

        A row whose job was dropped meanwhile is passed over.
        """
        finished = []
        for row, image in enumerate(batch.images):
            if not image.running:
                continue
            image.running = False
            image.x, image.x0 = x[row], x0[row]
            image.step += 1
            image.job.steps_left -= 1
            if image.finished:
                self.unfinished[image.job.model] -= 1
                finished.append(image)
                if image.job.steps_left == 0:
                    self.jobs.remove(image.job)
            self.running[image.job.model] -= 1
            self.steps_left[image.job.model] -= 1
        return finished

    def drop(self, job: Job) -> None:
        """Forgets what is left of a job."""
        if job not in self.jobs:
            return
        self.jobs.remove(job)
        self.steps_left[job.model] -= job.steps_left
        for image in job.images:
            self.running[job.model] -= image.running
            self.unfinished[job.model] -= not image.finished
            self.waiting -= not image.begun
            image.running = False

    def _turn(self, now: float) -> str:
        """The model whose row is due first or, where that has time, the one with the most rows for a batch."""
        first = next(job for job in self.jobs if any(image.ready for image in job.images))
        if first.deadline_s == math.inf:
            return first.model
        rows = {model: min(n, self.rows(model)) for model, n in (self.unfinished - self.running).items()}
        fullest = max(rows, key=rows.__getitem__)
        if rows[fullest] <= rows[first.model]:
            return first.model
        if next(job for job in self.jobs if job.model == fullest).deadline_s == math.inf:
            return first.model  # whose rows are not to wait for what was promised to nobody
        step_s = self._step_s(fullest, rows[fullest])
        if first.longest_left * self.costs.seconds(first.model, 1) < BRIEF * step_s:
            return first.model
        ends = self.ends(self.jobs, self.unfinished, now + step_s, EASE)
        in_it = {image.job for image in self._ready(fullest, 1)}  # they do not wait: they take a step
        return fullest if all(end_s <= job.deadline_s or job in in_it for job, end_s in ends) else first.model

    def _ready(self, model: str, idle: int) -> list[Image]:
        """The model's rows that could run: as many as `idle` workers could take."""
        rows: list[Image] = []
        most = idle * self.rows(model)
        for job in self.jobs:
            if job.model == model:
                rows += [image for image in job.images if image.ready]
            if len(rows) >= most:
                break
        return rows[:most]

    def _affordable(self, rows: list[Image], now: float) -> int:
        """How many of the rows: those of other jobs ride along while no row's deadline is lost to the longer step.

        All, where one is lost anyhow: smaller batches would do less work, and so lose the next.
        """
        own = sum(image.job is rows[0].job for image in rows)
        promised = [(n, image) for n, image in enumerate(rows, start=1) if image.job.deadline_s < math.inf]
        if not promised:
            return len(rows)

        def kept(many: int) -> bool:
            step_s = self.costs.seconds(rows[0].job.model, many)
            return all(
                now + (len(image.job.table) - image.step) * step_s <= image.job.deadline_s
                for n, image in promised
                if n <= many
            )

        return next((many for many in range(len(rows), own - 1, -1) if kept(many)), len(rows))

    def _step_s(self, model: str, rows: int) -> float:
        """Seconds of a step of so many rows, or of as many as pay."""
        return self.costs.seconds(model, min(rows, self.rows(model)))
