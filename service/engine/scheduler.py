"""The policy: which images take the next step together. Pure: it knows no clock, thread, lock or I/O.

Earliest due time first. A job is due at its deadline or, without one, at its arrival plus DUE_FACTOR times its work.
Due times do not change, so older jobs move to the front and nothing starves. No other order that may preempt between
two steps meets more deadlines on one machine (Liu and Layland 1973). docs/design.md has the argument and the bounds.
"""

import math
from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from service.engine.costs import Costs
from service.engine.jobs import Batch, Image, Job, Priority
from service.engine.runtime import State, States

DUE_FACTOR: dict[Priority, float] = {"high": 15.0, "normal": 50.0, "low": 200.0}  # due time over work
ADMISSION_MARGIN = 1.25  # on predicted work, where a deadline depends on it
YIELD_MARGIN = 1.5  # on predicted work, where a guaranteed job yields to increase the throughput
MIN_YIELD_STEPS = 8  # of the fuller batch: a job with less work left than these steps does not yield


@dataclass
class Counts:
    """What is unfinished: rows of images and their steps by model, and images."""

    unfinished: Counter[str] = field(default_factory=Counter)  # rows
    running: Counter[str] = field(default_factory=Counter)  # rows in a batch that has not come back
    steps_left: Counter[str] = field(default_factory=Counter)  # of all rows
    images: int = 0
    waiting: int = 0  # images not begun

    def add(self, job: Job) -> None:
        self.images += job.n
        self.waiting += job.n
        self.unfinished[job.model] += job.n * job.rows
        self.steps_left[job.model] += job.steps_left * job.rows

    def begin(self) -> None:
        self.waiting -= 1

    def start(self, batch: Batch) -> None:
        self.running[batch.model] += batch.rows

    def advance(self, image: Image) -> None:
        """The image has taken a step."""
        model, rows = image.job.model, image.job.rows
        self.running[model] -= rows
        self.steps_left[model] -= rows
        if image.finished:
            self.unfinished[model] -= rows
            self.images -= 1

    def drop(self, job: Job) -> None:
        self.steps_left[job.model] -= job.steps_left * job.rows
        for image in job.images:
            if image.running:
                self.running[job.model] -= job.rows
            if not image.finished:
                self.unfinished[job.model] -= job.rows
                self.images -= 1
            if not image.begun:
                self.waiting -= 1


class Scheduler:
    """Jobs in order of their due times, and of arrival where those are equal; images of a job in order of index.

    `workers` is the number of steps at a time. Images that have begun hold memory: at most `max_active` begin.
    """

    def __init__(
        self, max_batch: int, costs: Costs | None = None, workers: int = 1, max_active: float = math.inf
    ) -> None:
        self.max_batch = max_batch
        self.max_active = max_active
        self.costs = costs or Costs()
        self.workers = workers
        self.jobs: list[Job] = []  # not finished
        self.counts = Counts()

    def add(self, job: Job) -> None:
        """Queues an accepted job, whose `due_s` is set."""
        insort(self.jobs, job, key=lambda other: other.due_s)
        self.counts.add(job)

    @property
    def waiting(self) -> int:
        """Images not begun."""
        return self.counts.waiting

    @property
    def active(self) -> int:
        """Images begun and not finished."""
        return self.counts.images - self.counts.waiting

    @property
    def ready(self) -> int:
        """Rows that could take a step now."""
        return self.counts.unfinished.total() - self.counts.running.total()

    def efficient_batch_size(self, model: str) -> int:
        """The largest number of rows of a batch that still improves throughput."""
        return self.costs.efficient_batch_size(model, self.max_batch)

    def work_s(self, job: Job) -> float:
        """Seconds of a job's remaining steps, alone on one worker."""
        left = [image.steps_left for image in job.images if not image.finished]
        most, total_s = max(1, self.efficient_batch_size(job.model) // job.rows), 0.0
        while left:
            images = min(most, len(left))
            steps = min(left[:images])
            total_s += steps * self.costs.seconds(job.model, images * job.rows)
            left = [k for k in (*(k - steps for k in left[:images]), *left[images:]) if k > 0]
        return total_s + job.steps_left * self.preview_s(job)

    def preview_s(self, job: Job) -> float:
        """Seconds that the previews take which an image of the job asks for, a step."""
        return job.previews * self.costs.preview_seconds(job.model)

    def row_s(self, model: str) -> float:
        """A row's share of a step, in seconds, if the workers share the model's unfinished images."""
        rows = math.ceil(self.counts.unfinished[model] / self.workers)
        rows = min(max(rows, 1), self.efficient_batch_size(model))
        return self.costs.seconds(model, rows) / rows

    def predicted_ends(
        self, order: Sequence[Job], unfinished: Mapping[str, int], now: float, margin: float = ADMISSION_MARGIN
    ) -> Iterator[tuple[Job, float]]:
        """An upper bound of the end of each job with a deadline, for jobs in this order and `unfinished` rows by model.

        A job waits only while every worker is busy with earlier due jobs. So it ends within the running step, the work
        before it shared by the workers, and its own work alone (Graham 1969). Earlier rows of its own model are in full
        batches, or the job would share one. Batches of another model may not be full: then each step of that model's
        longest job counts as a step with all of its rows. Previews of later jobs may ride in its batches: all count.
        """
        full_s = {model: self._step_s(model, rows) + self._previews_s(model) for model, rows in unfinished.items()}
        row_s = {model: self.row_s(model) for model in unfinished}
        running = self.counts.running.items()
        now += max(
            (self._step_s(model, rows) + self._previews_s(model) for model, rows in running if rows), default=0.0
        )
        before_s, later_previews_s = 0.0, sum(job.steps_left * self.preview_s(job) for job in order)
        slack_s = dict.fromkeys(unfinished, 0.0)  # by which a model's earlier steps may exceed their rows' shares
        last = max((i for i, job in enumerate(order) if job.deadline_s < math.inf), default=-1)
        for job in order[: last + 1]:
            model, previews_s = job.model, job.steps_left * self.preview_s(job)
            later_previews_s -= previews_s
            if job.deadline_s < math.inf:
                wait_s = (before_s + sum(slack_s.values()) - slack_s[model]) / self.workers + later_previews_s
                yield job, now + margin * (wait_s + self.work_s(job))
            before_s += job.steps_left * job.rows * row_s[model] + previews_s
            slack_s[model] = max(slack_s[model], job.longest_left * (full_s[model] - row_s[model]))

    def next_batch(self, now: float, idle: int = 1) -> Batch | None:
        """The next batch, of images of one model in order of due times; None if no image is ready.

        It has as many rows as improve throughput, or fewer to leave rows for each of the `idle` workers, or to meet a
        deadline.
        """
        first = next((job for job in self.jobs if any(map(self._may_step, job.images))), None)
        if first is None:
            return None
        images = self._ready_images(self._next_model(first, now), idle)
        most = self.efficient_batch_size(images[0].job.model)
        rows = sum(image.job.rows for image in images)
        images = first_rows(images, min(most, math.ceil(rows / idle)))
        images = images[: self._affordable(images, now)]
        for image in images:
            image.running = True
            if not image.begun:
                image.begun = True
                image.job.started_s = image.job.started_s or now
                self.counts.begin()
        batch = Batch(images)
        self.counts.start(batch)
        return batch

    def advance(self, batch: Batch, x: States | Sequence[State], x0: States) -> list[Image]:
        """Gives each image its new state, from x and x0 (n, C, H, W); returns the images that finished.

        Images whose job was dropped meanwhile are skipped.
        """
        finished = []
        for row, image in zip(batch.first_rows, batch.images, strict=True):
            if not image.running:
                continue
            image.running = False
            image.advance(x[row], x0[row])
            image.job.steps_left -= 1
            self.counts.advance(image)
            if image.finished:
                finished.append(image)
                if image.job.steps_left == 0:
                    self.jobs.remove(image.job)
        return finished

    def drop(self, job: Job) -> None:
        """Removes an unfinished job."""
        if job not in self.jobs:
            return
        self.jobs.remove(job)
        self.counts.drop(job)
        for image in job.images:
            image.running = False

    def _may_step(self, image: Image) -> bool:
        return image.ready and (image.begun or self.active < self.max_active)

    def _next_model(self, first: Job, now: float) -> str:
        """The model of the job that is due first, or the model with the fullest batch if that job may yield."""
        if self.active >= self.max_active:
            return first.model
        ready = self.counts.unfinished - self.counts.running
        rows = {model: min(n, self.efficient_batch_size(model)) for model, n in ready.items()}
        fullest = max(rows, key=rows.__getitem__)
        if rows[fullest] > rows[first.model] and self._may_yield(first, fullest, rows[fullest], now):
            return fullest
        return first.model

    def _may_yield(self, first: Job, fullest: str, rows: int, now: float) -> bool:
        """Whether a guaranteed job may let a fuller batch of another model go first: its rows are cheaper."""
        if first.deadline_s == math.inf:
            return False  # due times without a deadline keep their order
        if next(job for job in self.jobs if job.model == fullest).deadline_s == math.inf:
            return False  # a guaranteed job does not wait for one that is not
        step_s = self._step_s(fullest, rows) + self._previews_s(fullest)
        if first.longest_left * self.costs.seconds(first.model, 1) < MIN_YIELD_STEPS * step_s:
            return False
        ends = self.predicted_ends(self.jobs, self.counts.unfinished, now + step_s, YIELD_MARGIN)
        in_batch = {image.job for image in self._ready_images(fullest, 1)}  # these take a step instead of waiting
        return all(end_s <= job.deadline_s or job in in_batch for job, end_s in ends)

    def _ready_images(self, model: str, idle: int) -> list[Image]:
        """The model's images that could take a step now: as many as `idle` workers could take."""
        images: list[Image] = []
        most = idle * self.efficient_batch_size(model)
        for job in self.jobs:
            if job.model == model:
                images += filter(self._may_step, job.images)
            if len(images) >= most:
                break
        return first_rows(images, most)

    def _affordable(self, images: list[Image], now: float) -> int:
        """How many of the images fit: images of other jobs join unless the longer step breaks a row's deadline.

        All of them fit if a deadline breaks in any case: smaller batches would do less work, and break the next one.
        """
        own = sum(image.job is images[0].job for image in images)
        rows = [*accumulate(image.job.rows for image in images)]
        model = images[0].job.model
        if all(image.job.deadline_s == math.inf for image in images):
            return len(images)

        def keeps(count: int) -> bool:
            batch, step_s = images[:count], self.costs.seconds(model, rows[count - 1])
            now_wanted, left = Counter[Job](), Counter[Job]()  # previews: in this step, and in all of the images' steps
            for image in batch:
                now_wanted[image.job] += image.wants_preview
                left[image.job] += image.previews_left
            return all(
                now + image.steps_left * step_s + previews * self.costs.preview_seconds(model) <= image.job.deadline_s
                for image in batch
                for previews in [left[image.job] + now_wanted.total() - now_wanted[image.job]]
            )

        return next((count for count in range(len(images), own - 1, -1) if keeps(count)), len(images))

    def _previews_s(self, model: str) -> float:
        """Seconds of the previews that a step of the model may have at most."""
        images = sum(job.unfinished for job in self.jobs if job.model == model and job.previews)
        return min(images, self.efficient_batch_size(model)) * self.costs.preview_seconds(model) if images else 0.0

    def _step_s(self, model: str, rows: int) -> float:
        """Seconds of a step of these rows, or of an efficient batch of them; one image may have two in any case."""
        return self.costs.seconds(model, min(rows, max(2, self.efficient_batch_size(model))))


def first_rows(images: list[Image], most: int) -> list[Image]:
    """The first images with at most `most` rows together, and at least one image."""
    count = bisect_right([*accumulate(image.job.rows for image in images)], most)
    return images[: max(1, count)]
