"""Who is let in: requests in predicted work, refused at once where they could not be answered in time."""

import math

from service.core import Job
from service.errors import Overloaded
from service.scheduler import STRETCH, Scheduler

MARGIN = 1.25  # on predicted work, where a deadline hangs on it


class Admission:
    """The jobs accepted and not ended. It belongs to the event loop, and reads a job's `steps_left` as it is."""

    def __init__(self, scheduler: Scheduler, max_queued_images: int, max_backlog_s: float) -> None:
        self.scheduler = scheduler
        self.max_queued_images = max_queued_images
        self.max_backlog_s = max_backlog_s
        self.jobs: dict[Job, None] = {}

    def admit(self, job: Job, now: float) -> None:
        """Takes the job on and gives it its due time. Raises Overloaded."""
        queued = sum(each.n for each in self.jobs)
        backlog_s = sum(map(self.scheduler.work_s, self.jobs))
        work_s = self.scheduler.work_s(job)
        if queued + job.n > self.max_queued_images:
            raise Overloaded(f"{queued} images are queued; {job.n} more are too many", backlog_s)
        if self.jobs and backlog_s + work_s > self.max_backlog_s:
            over_s = min(backlog_s, backlog_s + work_s - self.max_backlog_s)
            raise Overloaded(f"{backlog_s:.1f} s of work are queued; {work_s:.1f} s more are too much", over_s)
        job.due_s = min(job.deadline_s, now + STRETCH[job.priority] * work_s)
        while (broken := self._broken(job, now)) is not None:
            if job.deadline_s < math.inf:
                raise Overloaded("the deadline, or one already promised, would be missed", backlog_s)
            job.due_s = broken.deadline_s  # and behind it, as it comes later
        self.jobs[job] = None

    def release(self, job: Job) -> None:
        del self.jobs[job]

    def _broken(self, job: Job, now: float) -> Job | None:
        """The first of all deadlines, this job's and those promised, that would be missed with it at its due time."""
        order = sorted([*self.jobs, job], key=lambda each: each.due_s)
        end_s, behind = now + self.scheduler.step_s, False
        for each in order:
            end_s += MARGIN * self.scheduler.work_s(each)
            behind = behind or each is job  # what comes before is as it was
            if behind and end_s > each.deadline_s:
                return each
        return None
