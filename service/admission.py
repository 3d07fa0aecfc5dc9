"""Who is let in: requests in predicted work, refused at once where they could not be answered in time. Pure.

A job waits while every worker is busy with what is due before it. So it ends within the longest step, the work before
it shared by the workers, and its own alone (Graham 1969). Rows of its own model before it are in full batches, else it
would ride along; another model's may have room: then a full batch's step for each of its longest job's is added.
"""

import math
from bisect import bisect_right
from collections.abc import Iterator

from service.core import Job
from service.errors import Overloaded
from service.scheduler import STRETCH, Scheduler

MARGIN = 1.25  # on predicted work, where a deadline hangs on it


class Admission:
    """Asks the scheduler what is there already."""

    def __init__(self, scheduler: Scheduler, max_queued_images: int, max_backlog_s: float, workers: int = 1) -> None:
        self.scheduler = scheduler
        self.max_queued_images = max_queued_images
        self.max_backlog_s = max_backlog_s
        self.workers = workers

    def admit(self, job: Job, now: float) -> None:
        """Gives the job its due time, and has the scheduler add it. Raises Overloaded."""
        queued = self.scheduler.active + self.scheduler.waiting
        backlog_s = self.backlog_s()
        work_s = self.scheduler.work_s(job)
        if queued + job.n > self.max_queued_images:
            raise Overloaded(f"{queued} images are queued; {job.n} more are too many", backlog_s)
        more_s = work_s / min(job.n, self.workers)
        if queued and backlog_s + more_s > self.max_backlog_s:
            over_s = min(backlog_s, backlog_s + more_s - self.max_backlog_s)
            raise Overloaded(f"{backlog_s:.1f} s of work are queued; {more_s:.1f} s more are too much", over_s)
        job.due_s = min(job.deadline_s, now + STRETCH[job.priority] * work_s)
        broken = [each for each, end_s in self._ends(job, now) if end_s > each.deadline_s]
        if broken and job.deadline_s < math.inf:
            raise Overloaded("the deadline, or one already promised, would be missed", backlog_s)
        if broken:
            job.due_s = broken[-1].due_s  # and behind it, as it comes later
        self.scheduler.add(job)

    def backlog_s(self) -> float:
        """Seconds that all that is accepted takes, in full batches."""
        return sum(left * self._row_s(model) for model, left in self.scheduler.steps_left.items()) / self.workers

    def _row_s(self, model: str) -> float:
        """A row's share of a step of a full batch."""
        rows = self.scheduler.costs.paying(model, self.scheduler.max_batch)
        return self.scheduler.costs.seconds(model, rows) / rows

    def _ends(self, job: Job, now: float) -> Iterator[tuple[Job, float]]:
        """This job and, of those behind it, each that was promised, with the time by which it ends at the latest."""
        costs, most = self.scheduler.costs, self.scheduler.max_batch
        models = {job.model, *(model for model, left in self.scheduler.steps_left.items() if left)}
        full_s = {model: costs.seconds(model, costs.paying(model, most)) for model in models}
        row_s = {model: self._row_s(model) for model in models}
        work_s = dict.fromkeys(models, 0.0)  # before, in full batches
        room_s = dict.fromkeys(models, 0.0)  # and what it may be more
        place = bisect_right(self.scheduler.jobs, job.due_s, key=lambda each: each.due_s)
        order = [*self.scheduler.jobs[:place], job, *self.scheduler.jobs[place:]]
        last = max((i for i, each in enumerate(order) if each.deadline_s < math.inf), default=-1)
        for i, each in enumerate(order[: last + 1]):
            model = each.model
            if i >= place and each.deadline_s < math.inf:
                before_s = (sum(work_s.values()) + sum(room_s.values()) - room_s[model]) / self.workers
                yield each, now + max(full_s.values()) + MARGIN * (before_s + self.scheduler.work_s(each))
            work_s[model] += each.steps_left * row_s[model]
            room_s[model] = max(room_s[model], each.longest_left * full_s[model])
