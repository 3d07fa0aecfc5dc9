"""Who is let in: requests in predicted work, refused at once where they could not be answered in time. Pure.

A promise is made where `Scheduler.ends` has it met, and every other one too. As a job's rows ride along with those
before, it may make all late that are behind the first of its model.

That bound is met only just by what comes when all is busy, and everything that comes next is refused for its sake, the
short first. So promises also add up: each takes what is left of its work over what is left of its time, of what the
machine does, and while all take more than PROMISED of it, no other is made. That asks nothing of who comes, so that a
call is about as likely to be let in as another, whatever the work it is and on whichever model; and what jobs are ahead
of their promises is promised to others.
"""

import math
from bisect import bisect_right
from collections import Counter, defaultdict
from itertools import dropwhile

from service.engine.jobs import Job
from service.engine.scheduler import MARGIN, STRETCH, Scheduler
from service.errors import Overloaded

PROMISED = 0.8  # of the machine: while that is taken, nothing more


class Admission:
    """Asks the scheduler what is there already."""

    def __init__(self, scheduler: Scheduler, max_queued_images: int, max_backlog_s: float) -> None:
        self.scheduler = scheduler
        self.max_queued_images = max_queued_images
        self.max_backlog_s = max_backlog_s

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
        more_s = work_s / min(job.n, self.scheduler.workers)
        if queued and backlog_s + more_s > self.max_backlog_s:
            over_s = min(backlog_s, backlog_s + more_s - self.max_backlog_s)
            raise Overloaded(f"{backlog_s:.1f} s of work are queued; {more_s:.1f} s more are too much", over_s)
        if job.deadline_s < now + MARGIN * work_s:
            alone_ms = 1000 * MARGIN * work_s
            raise Overloaded(f"the deadline is nearer than the {alone_ms:.0f} ms that this may take alone", backlog_s)
        if job.deadline_s < math.inf and self._promised(now) > PROMISED:
            raise Overloaded("as much is promised as the machine can do", backlog_s)
        job.due_s = min(job.deadline_s, now + STRETCH[job.priority] * work_s)
        broken = self._broken(job, now)
        if broken and job.deadline_s < math.inf:
            raise Overloaded("the deadline, or one already promised, would be missed", backlog_s)
        if broken:
            job.due_s = max(job.due_s, broken[-1].due_s)  # and behind it, as it comes later

    def backlog_s(self) -> float:
        """Seconds that all that is accepted takes."""
        scheduler = self.scheduler
        return sum(n * scheduler.row_s(model) for model, n in scheduler.steps_left.items()) / scheduler.workers

    def _promised(self, now: float) -> float:
        """The share of the machine that the jobs with a deadline take until they are to be finished."""
        rows_per_s = defaultdict[str, float](float)  # by model
        for each in self.scheduler.jobs:
            if each.deadline_s < math.inf:
                least_s = each.longest_left * self.scheduler.costs.seconds(each.model, 1)  # what is late takes no more
                rows_per_s[each.model] += each.steps_left / max(each.deadline_s - now, least_s)
        return sum(n * self.scheduler.row_s(model) for model, n in rows_per_s.items()) / self.scheduler.workers

    def _broken(self, job: Job, now: float) -> list[Job]:
        """What might miss its deadline, itself or, of what was promised, one that may end later for it."""
        jobs = self.scheduler.jobs
        place = bisect_right(jobs, job.due_s, key=lambda each: each.due_s)
        order = [*jobs[:place], job, *jobs[place:]]
        late = {*dropwhile(lambda each: each.model != job.model, order)}
        ends = self.scheduler.ends(order, self.scheduler.unfinished + Counter({job.model: job.n}), now)
        return [each for each, end_s in ends if end_s > each.deadline_s and each in late]
