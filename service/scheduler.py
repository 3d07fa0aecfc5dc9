"""The policy: which images take the next step together. Pure: it knows no clock, thread, lock or I/O.

Earliest due first. A job's due time is its deadline or, without one, its arrival plus STRETCH times the work it is: the
less work, the sooner, and the older, the nearer the front. Due times do not change, so that

- what was accepted with a deadline that can be met is met: on one machine that may be interrupted between two steps,
  no order meets more deadlines than this one (Liu and Layland 1973), and admission lets nothing in that breaks one;
- nothing starves: what arrives after a job is due is due later still. So a job of w seconds, due D seconds after its
  arrival, ends within D + B, where B is the work accepted by then, each step counted as one of a full batch (rows that
  ride along cost that much at most): a slowdown of at most STRETCH + B / w.
"""

import math
from bisect import insort

from service.core import Batch, Image, Job, States
from service.costs import Costs
from service.schemas import Priority

STRETCH: dict[Priority, float] = {"high": 1.5, "normal": 5.0, "low": 20.0}  # due time over work


class Scheduler:
    """Jobs in order of their due times, and of arrival where those are equal; images of a job in order of index."""

    def __init__(self, max_batch: int, costs: Costs | None = None) -> None:
        self.max_batch = max_batch
        self.costs = costs or Costs()
        self.waiting = 0  # images not begun
        self.active = 0  # images begun and not finished
        self.step_s = 0.0  # predicted, of the batch chosen last: who comes meanwhile waits for it
        self._jobs: list[Job] = []

    def add(self, job: Job) -> None:
        insort(self._jobs, job, key=lambda each: each.due_s)
        self.waiting += job.n

    def work_s(self, job: Job) -> float:
        """Seconds that what is left of a job takes alone; rows of other jobs in its batches only make it less."""
        most, total = self.costs.paying(job.model, self.max_batch), 0.0
        left = [len(job.table) - image.step for image in job.images if not image.finished]
        while left:
            rows = min(most, len(left))
            steps = min(left[:rows])
            total += steps * self.costs.seconds(job.model, rows)
            left = [k for k in (*(k - steps for k in left[:rows]), *left[rows:]) if k > 0]
        return total

    def next_batch(self, now: float) -> Batch | None:
        """Rows of the model whose job is due first, in order of due times; None when all is done."""
        if not self._jobs:
            return None
        model = self._jobs[0].model
        rows = self._rows(model, self.costs.paying(model, self.max_batch))
        rows = rows[: self._affordable(rows, now)]
        for image in rows:
            if not image.begun:
                image.begin()
                image.job.started_s = image.job.started_s or now
                self.waiting -= 1
                self.active += 1
        self.step_s = self.costs.seconds(model, len(rows))
        return Batch(self._jobs[0].method, rows)

    def advance(self, batch: Batch, x: States, x0: States) -> list[Image]:
        """Gives each row its new state, x and x0 (n, C, H, W); returns the images that finished."""
        finished = []
        for row, image in enumerate(batch.images):
            image.x, image.x0 = x[row], x0[row]
            image.step += 1
            image.job.steps_left -= 1
            if image.finished:
                self.active -= 1
                finished.append(image)
                if image.job.steps_left == 0:
                    self._jobs.remove(image.job)
        return finished

    def drop(self, job: Job) -> None:
        """Forgets what is left of a job."""
        if job in self._jobs:
            self._jobs.remove(job)
            self.active -= sum(image.begun and not image.finished for image in job.images)
            self.waiting -= sum(not image.begun for image in job.images)

    def _rows(self, model: str, most: int) -> list[Image]:
        rows: list[Image] = []
        for job in self._jobs:
            if job.model == model:
                rows += [image for image in job.images if not image.finished][: most - len(rows)]
                if len(rows) == most:
                    break
        return rows

    def _affordable(self, rows: list[Image], now: float) -> int:
        """How many of the rows: those of other jobs ride along while the time they add breaks no deadline."""
        own = sum(image.job is rows[0].job for image in rows)
        spare_s, before_s = math.inf, 0.0
        for job in self._jobs if any(job.deadline_s < math.inf for job in self._jobs) else []:
            before_s += self.work_s(job)
            spare_s = min(spare_s, job.deadline_s - now - before_s)
        seconds, model = self.costs.seconds, rows[0].job.model
        affordable = [n for n in range(own, len(rows) + 1) if seconds(model, n) - seconds(model, own) <= spare_s]
        return max(affordable, default=own)
