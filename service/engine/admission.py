"""Admission control by predicted work: which jobs are accepted, and which are refused at once. Pure.

A deadline is guaranteed if `Scheduler.predicted_ends` meets it and every deadline guaranteed before. The utilisation by
guaranteed jobs, their work over their remaining time, is at most MAX_PROMISED_UTILIZATION: see docs/design.md.
"""

import math
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from itertools import dropwhile

from service.engine.jobs import Job
from service.engine.scheduler import ADMISSION_MARGIN, DUE_FACTOR, Scheduler
from service.errors import Overloaded, TooMuchWork

MAX_PROMISED_UTILIZATION = 0.8  # of the machine, by guaranteed jobs


class Admission:
    """Decides by the scheduler's accepted jobs. Limits are in images, and in seconds of the machine's work."""

    def __init__(
        self, scheduler: Scheduler, max_queued_images: int, max_backlog_s: float, max_request_s: float = math.inf
    ) -> None:
        self.scheduler = scheduler
        self.max_queued_images = max_queued_images
        self.max_backlog_s = max_backlog_s
        self.max_request_s = max_request_s

    def admit(self, job: Job, now: float) -> None:
        """Adds the job to the scheduler, due as `quote` says. Raises Overloaded or TooMuchWork."""
        job.due_s = self.quote(job, now)
        self.scheduler.add(job)

    def quote(self, job: Job, now: float) -> float:
        """The due time that the job would get now. Raises what `admit` raises. Changes nothing."""
        work_s = self.scheduler.work_s(job)
        if work_s > self.max_request_s:
            raise TooMuchWork(work_s, self.max_request_s, *job.asked)
        due_s = min(job.deadline_s, now + DUE_FACTOR[job.priority] * work_s)
        self._check_queue(job, work_s, due_s)
        if job.deadline_s < math.inf:
            self._check_deadline(job, work_s, now)
        broken = self._broken(job, due_s, now)
        if broken and job.deadline_s < math.inf:
            raise Overloaded("this deadline, or an accepted one, would be missed", self.backlog_s())
        return max(due_s, broken[-1].due_s) if broken else due_s  # equal due times keep the order of arrival

    def backlog_s(self) -> float:
        """Seconds that all accepted work takes."""
        return self._seconds(self.scheduler.counts.steps_left, self.scheduler.jobs)

    def _check_queue(self, job: Job, work_s: float, due_s: float) -> None:
        """Raises Overloaded if the jobs due before this one exceed a limit; it does not wait for the others."""
        queued, backlog_s = self.scheduler.counts.unfinished.total(), self.backlog_s()
        more_s = work_s / min(job.n, self.scheduler.workers)
        if queued + job.n * job.rows <= self.max_queued_images and backlog_s + more_s <= self.max_backlog_s:
            return
        jobs = self.scheduler.jobs
        before = jobs[: bisect_right(jobs, due_s, key=lambda other: other.due_s)]
        queued = sum(other.unfinished for other in before)
        if queued + job.n > self.max_queued_images:
            raise Overloaded(f"{queued} images are queued; {job.n} more are too many", backlog_s)
        steps_left = Counter[str]()
        for other in before:
            steps_left[other.model] += other.steps_left * other.rows
        before_s = self._seconds(steps_left, before)
        if before and before_s + more_s > self.max_backlog_s:
            over_s = min(before_s, before_s + more_s - self.max_backlog_s)
            raise Overloaded(f"{before_s:.1f} s of work are queued; {more_s:.1f} s more are too much", over_s)

    def _seconds(self, steps_left: Mapping[str, int], jobs: Iterable[Job]) -> float:
        """Seconds of these row steps, by model, and of the jobs' previews, shared by the workers."""
        scheduler = self.scheduler
        steps_s = sum(n * scheduler.row_s(model) for model, n in steps_left.items())
        previews_s = sum(job.steps_left * scheduler.preview_s(job) for job in jobs if job.previews)
        return (steps_s + previews_s) / scheduler.workers

    def _check_deadline(self, job: Job, work_s: float, now: float) -> None:
        least_s = ADMISSION_MARGIN * work_s
        if job.deadline_s < now + least_s:
            detail = f"the deadline is shorter than the {1000 * least_s:.0f} ms that this request may take alone"
            raise Overloaded(detail, self.backlog_s())
        if sum(self.promised_utilization(now).values()) > MAX_PROMISED_UTILIZATION:
            raise Overloaded("accepted deadlines already use the capacity of the machine", self.backlog_s())

    def promised_utilization(self, now: float) -> dict[str, float]:
        """The utilisation of the machine by guaranteed jobs until their deadlines, by model."""
        work = defaultdict[str, float](float)  # worker seconds a second: of steps, and of what previews keep busy
        for job in self.scheduler.jobs:
            if job.deadline_s < math.inf:
                least_s = job.longest_left * self.scheduler.costs.seconds(job.model, 1)  # a late job needs no more
                step_s = job.rows * self.scheduler.row_s(job.model) + self.scheduler.preview_s(job)
                work[job.model] += job.steps_left * step_s / max(job.deadline_s - now, least_s)
        return {model: busy / self.scheduler.workers for model, busy in work.items()}

    def _broken(self, job: Job, due_s: float, now: float) -> list[Job]:
        """The jobs that might miss their deadlines: this one, or guaranteed ones that may end later because of it.

        Its rows join the batches of its model's earlier jobs, so it may delay all jobs behind the first of them.
        """
        jobs = self.scheduler.jobs
        place = bisect_right(jobs, due_s, key=lambda other: other.due_s)
        order = [*jobs[:place], job, *jobs[place:]]
        delayed = {*dropwhile(lambda other: other.model != job.model, order)}
        unfinished = self.scheduler.counts.unfinished + Counter({job.model: job.n * job.rows})
        ends = self.scheduler.predicted_ends(order, unfinished, now)
        return [other for other, end_s in ends if end_s > other.deadline_s and other in delayed]
