"""The policy by itself: no clock, no thread, no model."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.engine.jobs import Image, Job
from service.engine.runtime import HostStates
from service.engine.scheduler import Scheduler
from service.engine.simulate import job as simulated_job


def job(method: str = "a", steps: int = 1, n: int = 1) -> Job:
    return simulated_job(method, steps, n)


def step(scheduler: Scheduler, now: float = 0.0) -> list[Image]:
    """Runs the next batch; returns what finished."""
    batch = scheduler.next_batch(now)
    assert batch is not None
    states = HostStates(np.zeros((len(batch.images), 1, 1, 1), dtype=np.float32))
    return scheduler.advance(batch, states, states)


def test_images_go_in_order_of_arrival_as_many_as_a_batch_holds() -> None:
    scheduler, first, second = Scheduler(max_batch=3), job(n=2), job(n=2)
    scheduler.add(first)
    scheduler.add(second)
    batch = scheduler.next_batch(now=0.0)
    assert batch is not None
    assert batch.images == [*first.images, second.images[0]]


def test_a_four_step_job_behind_a_thousand_step_one_is_in_the_very_next_batch() -> None:
    scheduler, long, short = Scheduler(max_batch=4), job(steps=1000), job(steps=4)
    scheduler.add(long)
    step(scheduler)
    scheduler.add(short)
    for _ in range(3):
        assert step(scheduler) == []
    assert step(scheduler) == short.images
    assert long.images[0].step == 5


def test_methods_never_mix_and_the_oldest_image_goes_first() -> None:
    scheduler, jobs = Scheduler(max_batch=8), [job("a"), job("b"), job("a")]
    for queued in jobs:
        scheduler.add(queued)
    assert step(scheduler) == [jobs[0].images[0], jobs[2].images[0]]
    assert step(scheduler) == jobs[1].images
    assert scheduler.next_batch(now=0.0) is None


def test_an_image_that_waits_holds_no_memory() -> None:
    scheduler, queued = Scheduler(max_batch=1), job(n=2)
    scheduler.add(queued)
    batch = scheduler.next_batch(now=0.0)
    assert batch is not None
    batch.inputs()
    assert [image.x is None for image in queued.images] == [False, True]


def test_a_job_starts_when_its_first_image_does() -> None:
    scheduler, queued = Scheduler(max_batch=1), job(n=2)
    scheduler.add(queued)
    step(scheduler, now=3.0)
    step(scheduler, now=4.0)
    assert queued.started_s == 3.0


def test_a_dropped_job_leaves_nothing_behind() -> None:
    scheduler, dropped, kept = Scheduler(max_batch=1), job(steps=3, n=3), job()
    scheduler.add(dropped)
    scheduler.add(kept)
    step(scheduler)
    assert (scheduler.active, scheduler.waiting) == (1, 3)
    scheduler.drop(dropped)
    assert (scheduler.active, scheduler.waiting) == (0, 1)
    assert step(scheduler) == kept.images


jobs = st.builds(job, st.sampled_from("ab"), steps=st.integers(1, 5), n=st.integers(1, 4))


@given(st.integers(1, 5), st.lists(st.one_of(jobs, st.just("step"), st.just("drop"))))
def test_every_image_that_is_not_dropped_finishes_once_after_all_its_steps(
    max_batch: int, events: list[Job | str]
) -> None:
    scheduler = Scheduler(max_batch)
    added: list[Job] = []
    finished: list[Image] = []
    dropped: list[Job] = []

    def left() -> list[Image]:
        return [image for job in added if job not in dropped for image in job.images if image not in finished]

    for event in [*events, *["step"] * 400]:
        if isinstance(event, Job):
            scheduler.add(event)
            added.append(event)
        elif event == "drop" and left():
            dropped.append(left()[-1].job)
            scheduler.drop(dropped[-1])
        elif event == "step" and left():
            finished += step(scheduler)
        assert scheduler.waiting == sum(not image.begun for image in left())
        assert scheduler.active == sum(image.begun for image in left())
    assert not left()
    assert scheduler.next_batch(now=0.0) is None
    assert len(set(finished)) == len(finished)
    assert all(image.step == image.job.steps for image in finished)
