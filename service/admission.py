"""Who is let in: requests in predicted work, refused at once where they could not be answered in time. Pure.

A job waits while every worker is busy with what is due before it. So it ends within the step under way, the work before
it shared by the workers, and its own alone (Graham 1969). Rows of its own model before it are in full batches, else it
would ride along; another model's may have room: then each step of its longest job counts as one of all rows that the
model has. As a job's rows ride along with those before, it may make all late that are behind the first of its model.

That bound is met only just by what comes when all is busy, and everything that comes next is refused for its sake, the
short first. So promises also add up: each takes what is left of its work over what is left of its time, of what the
machine does, and while all take more than PROMISED of it, no other is made. That asks nothing of who comes, so that a
call is about as likely to be let in as another, whatever the work it is and on whichever model; and what jobs are ahead
of their promises is promised to others.
"""

import math
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator

from service.core import Job
from service.errors import Overloaded
from service.scheduler import STRETCH, Scheduler

MARGIN = 1.25  # on predicted work, where a deadline hangs on it
PROMISED = 0.65  # of the machine: while that is taken, nothing more


class Admission:
    """Asks the scheduler what is there already."""

    def __init__(self, scheduler: Scheduler, max_queued_images: int, max_backlog_s: float, workers: int = 1) -> None:
        self.scheduler = scheduler
        self.max_queued_images = max_queued_images
        self.max_backlog_s = max_backlog_s
        self.workers = workers

    def admit(self, job: Job, now: float) -> None:
        """Has the scheduler add the job. Raises Overloaded."""
        self.check(job, now)
        self.scheduler.add(job)

    def check(self, job: Job, now: float) -> None:
        """Gives the job its due time. Raises Overloaded."""
        queued = self.scheduler.unfinished.total()
        backlog_s = self.backlog_s()
        work_s = self.scheduler.work_s(job)
        if queued + job.n > self.max_queued_images:
            raise Overloaded(f"{queued} images are queued; {job.n} more are too many", backlog_s)
        more_s = work_s / min(job.n, self.workers)
        if queued and backlog_s + more_s > self.max_backlog_s:
            over_s = min(backlog_s, backlog_s + more_s - self.max_backlog_s)
            raise Overloaded(f"{backlog_s:.1f} s of work are queued; {more_s:.1f} s more are too much", over_s)
        if job.deadline_s < math.inf and self._promised(now) > PROMISED:
            raise Overloaded("as much is promised as the machine can do", backlog_s)
        job.due_s = min(job.deadline_s, now + STRETCH[job.priority] * work_s)
        broken = [each for each, end_s in self._ends(job, now) if end_s > each.deadline_s]
        if broken and job.deadline_s < math.inf:
            raise Overloaded("the deadline, or one already promised, would be missed", backlog_s)
        if broken:
            job.due_s = max(job.due_s, broken[-1].due_s)  # and behind it, as it comes later

    def backlog_s(self) -> float:
        """Seconds that all that is accepted takes."""
        return sum(steps * self._row_s(model) for model, steps in self.scheduler.steps_left.items()) / self.workers

    def _promised(self, now: float) -> float:
        """The share of the machine that the jobs with a deadline take until they are to be finished."""
        rows_per_s = defaultdict[str, float](float)  # by model
        for each in self.scheduler.jobs:
            if each.deadline_s < math.inf:
                least_s = each.longest_left * self.scheduler.costs.seconds(each.model, 1)  # what is late takes no more
                rows_per_s[each.model] += each.steps_left / max(each.deadline_s - now, least_s)
        return sum(rows * self._row_s(model) for model, rows in rows_per_s.items()) / self.workers

    def _row_s(self, model: str) -> float:
        """A row's share of a step, with the model's rows that there are shared by the workers."""
        rows = math.ceil(self.scheduler.unfinished[model] / self.workers)
        rows = min(max(rows, 1), self.scheduler.rows(model))
        return self.scheduler.costs.seconds(model, rows) / rows

    def _ends(self, job: Job, now: float) -> Iterator[tuple[Job, float]]:
        """Of what was promised, each job that may end later for this one, and itself: the time by which it ends."""
        rows = self.scheduler.unfinished + Counter({job.model: job.n})
        full_s = {model: self._step_s(model, rows[model]) for model in rows}
        row_s = {model: self._row_s(model) for model in rows}
        now += max((self._step_s(model, n) for model, n in self.scheduler.running.items() if n), default=0.0)
        work_s = dict.fromkeys(rows, 0.0)  # before
        room_s = dict.fromkeys(rows, 0.0)  # and what it may be more, with all the model's rows in every batch
        place = bisect_right(self.scheduler.jobs, job.due_s, key=lambda each: each.due_s)
        order = [*self.scheduler.jobs[:place], job, *self.scheduler.jobs[place:]]
        last = max((i for i, each in enumerate(order) if each.deadline_s < math.inf), default=-1)
        met = False  # a job of its model, with which its rows may ride along
        for each in order[: last + 1]:
            model = each.model
            met = met or model == job.model
            if met and each.deadline_s < math.inf:
                before_s = (sum(work_s.values()) + sum(room_s.values()) - room_s[model]) / self.workers
                yield each, now + MARGIN * (before_s + self.scheduler.work_s(each))
            work_s[model] += each.steps_left * row_s[model]
            room_s[model] = max(room_s[model], each.longest_left * (full_s[model] - row_s[model]))

    def _step_s(self, model: str, rows: int) -> float:
        """Seconds of a step of so many rows, or of as many as pay."""
        return self.scheduler.costs.seconds(model, min(rows, self.scheduler.rows(model)))
