"""The policy: which images take the next step together. Pure: it knows no clock, thread, lock or I/O.

Earliest due first. A job's due time is its deadline or, without one, its arrival plus STRETCH times the work it is: the
less work, the sooner, and the older, the nearer the front. Due times do not change, so that

- what was accepted with a deadline is met: no order that may interrupt between two steps meets more deadlines on one
  machine (Liu and Layland 1973), and `service.admission` lets nothing in that breaks one;
- nothing starves: what arrives after a job is due is due later still. So a job of w seconds, due D seconds after its
  arrival, ends within D + B, where B is the work accepted by then, each step counted as one of a full batch (rows that
  ride along cost that much at most): a slowdown of at most STRETCH + B / w.
"""

import math
from bisect import insort
from collections import Counter

from service.core import Batch, Image, Job, States
from service.costs import Costs
from service.schemas import Priority

STRETCH: dict[Priority, float] = {"high": 15.0, "normal": 50.0, "low": 200.0}  # due time over work


class Scheduler:
    """Jobs in order of their due times, and of arrival where those are equal; images of a job in order of index."""

    def __init__(self, max_batch: int, costs: Costs | None = None) -> None:
        self.max_batch = max_batch
        self.costs = costs or Costs()
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

    def next_batch(self, now: float, idle: int = 1) -> Batch | None:
        """Rows of the model whose row is due first, in order of due times; None when none is ready.

        As many as pay, or fewer where that leaves some for each of the `idle` workers or keeps a deadline.
        """
        rows = self._ready(idle)
        if not rows:
            return None
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

    def _ready(self, idle: int) -> list[Image]:
        """Rows that could run, of the model whose row is due first: as many as `idle` workers could take."""
        rows: list[Image] = []
        most = 1
        for job in self.jobs:
            if rows and job.model != rows[0].job.model:
                continue
            rows += [image for image in job.images if not image.running and not image.finished]
            if rows:
                most = idle * self.rows(rows[0].job.model)
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
