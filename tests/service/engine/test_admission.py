"""Scheduling and admission in virtual time, over thousands of random workloads."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.admission import Admission
from service.engine.jobs import Batch, Job
from service.engine.scheduler import DUE_FACTOR, Scheduler
from service.engine.simulate import CURVE, CURVES, RULES, Arrival, costs, job, simulate, trace
from service.errors import Overloaded, TooMuchWork

curves = st.sampled_from([{1: 0.01, 8: 0.08}, {1: 0.01, 8: 0.01}, {1: 0.01, 8: 0.04}])


@st.composite
def workloads(draw: st.DrawFn) -> tuple[Scheduler, list[Arrival]]:
    """A scheduler, and arrivals for it."""
    model_costs = costs({"a": draw(curves)})
    model_costs.set("b", draw(curves), preview_s=draw(st.sampled_from([0.0, 0.01, 0.05])))
    scheduler = Scheduler(draw(st.integers(1, 8)), model_costs, workers=draw(st.integers(1, 3)))
    now, arrivals = 0.0, []
    for _ in range(draw(st.integers(1, 12))):
        now += draw(st.floats(0, 0.2))
        within_s = draw(st.one_of(st.just(math.inf), st.floats(0.01, 2)))
        new = job(draw(st.sampled_from("ab")), draw(st.integers(1, 12)), draw(st.integers(1, 4)), now, now + within_s)
        new = replace(new, guidance=draw(st.sampled_from([1.0, 2.0])), preview_every=draw(st.sampled_from([0, 1, 3])))
        new.priority, new.watch = draw(st.sampled_from(["low", "normal", "high"])), lambda _: None
        arrivals.append(Arrival(now, new))
    return scheduler, arrivals


@settings(max_examples=2000)
@given(workloads())
def test_every_accepted_deadline_is_met(workload: tuple[Scheduler, list[Arrival]]) -> None:
    scheduler, arrivals = workload
    admission = Admission(scheduler, max_queued_images=1000, max_backlog_s=1.0)
    for accepted in simulate(arrivals, scheduler, admission):
        assert accepted.submitted_s < accepted.finished_s <= accepted.deadline_s + 1e-9
    assert scheduler.active == scheduler.waiting == scheduler.counts.running.total() == 0
    assert scheduler.counts.unfinished.total() == scheduler.counts.steps_left.total() == 0


def test_the_step_of_a_guided_image_counts_as_two_rows_where_batches_have_one() -> None:
    scheduler = Scheduler(1, costs({"a": {1: 0.01, 8: 0.08}}), workers=1)
    guided = replace(job("a", 1), guidance=2.0)
    behind = job("a", 2, at_s=0.004, deadline_s=0.0395)  # the step under way ends at 0.02, and its own at 0.04
    admission = Admission(scheduler, max_queued_images=1000, max_backlog_s=1.0)
    assert list(simulate([Arrival(0.0, guided), Arrival(0.004, behind)], scheduler, admission)) == [guided]


@settings(max_examples=1000)
@given(workloads())
def test_no_job_ends_later_than_its_due_time_and_the_backlog(workload: tuple[Scheduler, list[Arrival]]) -> None:
    scheduler, arrivals = workload

    def rule(job: Job, now: float, work_s: float) -> float:
        job.deadline_s = math.inf
        return now + DUE_FACTOR[job.priority] * work_s

    def full_s(job: Job) -> float:
        rows = scheduler.costs.efficient_batch_size(job.model, scheduler.max_batch)
        return job.steps * job.n * job.rows * scheduler.costs.seconds(job.model, rows)

    longest_step_s = 0.08
    finished = simulate(arrivals, scheduler, rule)
    for one in finished:
        backlog_s = sum(full_s(other) for other in finished if other.submitted_s <= one.due_s + longest_step_s)
        assert one.finished_s <= one.due_s + backlog_s + longest_step_s + 1e-9


def test_a_flood_of_short_jobs_of_one_model_does_not_starve_another() -> None:
    scheduler = Scheduler(1, costs({"a": {1: 0.01}, "b": {1: 0.01}}))
    flood = [Arrival(0.01 * i, job("a", 1, at_s=0.01 * i)) for i in range(1000)]
    victim = job("b", 10)
    simulate([Arrival(0.0, victim), *flood], scheduler, RULES["ours"])
    before_it_s = 0.02
    assert victim.finished_s <= DUE_FACTOR["normal"] * 0.1 + 0.1 + before_it_s  # its due time and its work
    starved = job("b", 10)
    flood = [Arrival(0.01 * i, job("a", 1, at_s=0.01 * i)) for i in range(1000)]
    simulate([Arrival(0.0, starved), *flood], Scheduler(1, scheduler.costs), RULES["shortest first"])
    assert starved.finished_s > 9


def test_a_four_step_job_is_in_the_next_step_though_a_long_one_fills_the_batch() -> None:
    for curve in ({1: 0.01, 4: 0.01}, {1: 0.01, 4: 0.04}):
        scheduler = Scheduler(4, costs({"a": curve}))
        long, short = job("a", 1000, n=8), job("a", 4)
        for queued in (long, short):
            queued.due_s = RULES["ours"](queued, 0.0, scheduler.work_s(queued))
        scheduler.add(long)
        scheduler.next_batch(0.0)
        scheduler.add(short)
        batch = scheduler.next_batch(0.01)
        assert batch is not None
        assert short.images[0] in batch.images


def assert_joins(other: Job, now: float, images: int) -> None:
    """The batch has so many images: that of a job with a deadline, and some of the other job, which is due later."""
    scheduler = Scheduler(4, costs({"a": {1: 0.01, 4: 0.013}}))
    urgent = job("a", 10, deadline_s=0.11)
    urgent.due_s, other.due_s = 0.11, 1.0
    scheduler.add(urgent)
    scheduler.add(other)
    batch = scheduler.next_batch(now)
    assert batch is not None
    assert batch.images == [*urgent.images, *other.images][:images]


def test_rows_that_would_break_a_deadline_do_not_join_the_batch() -> None:
    for now, rows in ((0.0095, 1), (-0.005, 2), (-1.0, 4), (0.05, 4)):  # in the last one it is broken in any case
        assert_joins(job("a", 10, n=3), now, rows)


@given(
    curve=curves,
    half_batch=st.integers(1, 4),
    steps=st.integers(1, 12),
    n=st.integers(1, 8),
    workers=st.integers(1, 3),
)
def test_guided_images_are_the_work_of_twice_as_many(
    curve: dict[int, float], half_batch: int, steps: int, n: int, workers: int
) -> None:
    scheduler = Scheduler(2 * half_batch, costs({"a": curve}), workers=workers)
    scheduler.costs.efficient_batch_size = lambda model, most: most  # type: ignore[method-assign]  # an even number
    guided, plain = replace(job("a", steps, n), guidance=2.0), job("a", steps, 2 * n)
    assert scheduler.work_s(guided) == pytest.approx(scheduler.work_s(plain))
    admission = Admission(scheduler, max_queued_images=1000, max_backlog_s=1e6)
    admission.admit(guided, 0.0)
    backlog_s = admission.backlog_s()
    scheduler.drop(guided)
    admission.admit(plain, 0.0)
    assert backlog_s == pytest.approx(admission.backlog_s())


def test_the_limit_of_the_queue_is_of_images_and_that_of_the_backlog_of_rows() -> None:
    def admission(images: int = 1000, backlog_s: float = 1e6, request_s: float = 1e6) -> Admission:
        return Admission(Scheduler(8, costs({"a": {1: 0.01, 8: 0.08}})), images, backlog_s, request_s)

    plain = replace(job("a", 10, 2), priority="low")  # 0.2 s
    first, second, third = (replace(plain, guidance=2.0) for _ in range(3))  # 0.4 s each
    by_images = admission(images=4)
    by_images.admit(first, 0.0)
    by_images.admit(second, 0.0)
    with pytest.raises(Overloaded, match="4 images are queued; 2 more are too many"):
        by_images.admit(third, 0.0)
    by_rows = admission(backlog_s=0.7)
    by_rows.admit(replace(first, priority="normal"), 0.0)
    with pytest.raises(Overloaded, match=r"0.4 s of work are queued; 0.4 s more are too much"):
        by_rows.admit(second, 0.0)
    by_rows.admit(plain, 0.0)
    with pytest.raises(TooMuchWork):
        admission(request_s=0.3).admit(third, 0.0)
    admission(request_s=0.3).admit(plain, 0.0)


def test_a_guided_image_joins_as_the_two_rows_that_it_is() -> None:
    for now, images in ((-0.005, 1), (-0.015, 2)):  # ten steps of two rows, and of three, would be in time
        assert_joins(replace(job("a", 10), guidance=2.0), now, images)


@pytest.mark.parametrize(
    ("steps", "within_s", "others_within_s", "first"),
    [
        (100, 1.53, 20, "b"),  # YIELD_MARGIN times its second, and the step of b
        (100, 1.51, 20, "a"),  # waiting might break its own guarantee
        (100, 10, 1.3, "b"),  # a job of the batch may itself be late: it takes a step instead of waiting
        (15, 10, 20, "a"),  # too little work left
        (100, math.inf, 20, "a"),  # not guaranteed: due times keep their order
        (100, 1.53, math.inf, "a"),  # the fuller batch is not guaranteed
    ],
)
def test_a_guaranteed_job_yields_to_more_rows_while_every_guarantee_holds(
    steps: int, within_s: float, others_within_s: float, first: str
) -> None:
    scheduler = Scheduler(4, costs({"a": {1: 0.01}, "b": {1: 0.01, 4: 0.02}}))
    for queued in (job("a", steps, deadline_s=within_s), job("b", 50, 4, deadline_s=others_within_s)):
        queued.due_s = 1.0 if queued.method == "a" else 1.3
        scheduler.add(queued)
    batch = scheduler.next_batch(0.0)
    assert batch is not None
    assert batch.method == first


def test_overload_refuses_calls_of_all_lengths_alike_and_keeps_deadlines() -> None:
    scheduler = Scheduler(16, costs(CURVES), workers=2)
    arrivals = trace(3.0, 1000, deadlines=1.0)
    finished = simulate(arrivals, scheduler, Admission(scheduler, 4096, 20.0), noise=0.15)
    arrived = Counter(arrival.job.steps for arrival in arrivals)
    accepted = Counter(job.steps for job in finished)
    shares = [accepted[steps] / arrived[steps] for steps in arrived]
    assert max(shares) < 2 * min(shares)
    assert np.mean([job.finished_s <= job.deadline_s for job in finished]) > 0.98


def test_a_refusal_gives_its_reason() -> None:
    scheduler = Scheduler(4, costs({"a": {1: 0.01}}))
    admission = Admission(scheduler, max_queued_images=100, max_backlog_s=60.0)
    with pytest.raises(Overloaded, match="shorter than the 125 ms that this request may take alone"):
        admission.admit(job("a", 10, deadline_s=0.12), now=0.0)
    admission.admit(job("a", 10, deadline_s=0.2), now=0.0)
    with pytest.raises(Overloaded, match="this deadline, or an accepted one, would be missed"):
        admission.admit(job("a", 10, deadline_s=0.19), now=0.0)
    admission.admit(job("a", 20, deadline_s=0.6), now=0.0)
    with pytest.raises(Overloaded, match="accepted deadlines already use the capacity of the machine"):
        admission.admit(job("a", 10, deadline_s=60.0), now=0.0)


def test_rows_are_shared_among_the_workers_that_wait() -> None:
    scheduler = Scheduler(16, costs({"a": {1: 0.01, 16: 0.02}}))
    scheduler.add(job("a", 1, n=5))
    batches = [scheduler.next_batch(0.0, idle) for idle in (3, 2, 1)]
    assert [len(batch.images) for batch in batches if batch] == [2, 2, 1]
    assert scheduler.next_batch(0.0) is None
    assert (scheduler.counts.running.total(), scheduler.ready) == (5, 0)


def test_short_jobs_are_quicker_by_due_times_than_first_come_first_served() -> None:
    slowdown = {}
    for name, rule in RULES.items():
        finished = simulate(trace(0.9, 400), Scheduler(16, costs(CURVES)), rule)
        short = [job.finished_s - job.submitted_s for job in finished if job.steps == 4]
        slowdown[name] = np.percentile(short, 99) / (4 * CURVE[1])
    assert slowdown["ours"] < slowdown["first come"]


def test_a_short_job_is_accepted_however_much_is_due_after_it() -> None:
    scheduler = Scheduler(16, costs({"a": {1: 0.01}}))
    admission = Admission(scheduler, max_queued_images=100, max_backlog_s=20.0)
    admission.admit(job("a", 1000, n=64), now=0.0)  # the only job is accepted at any size
    with pytest.raises(Overloaded, match=r"640\.0 s of work are queued"):
        admission.quote(job("a", 1000, n=30), now=32_000.0)
    for n in (1, 40):
        admission.admit(job("a", 4, n=n), now=0.0)
    with pytest.raises(Overloaded, match="41 images are queued; 60 more are too many"):
        admission.quote(job("a", 4, n=60), now=0.0)


@settings(max_examples=1000)
@given(st.lists(st.tuples(st.integers(1, 1000), st.integers(1, 64)), max_size=8), st.integers(1, 50))
def test_a_request_waits_for_nothing_that_is_due_after_it(queue: list[tuple[int, int]], steps: int) -> None:
    """Whether it is accepted does not change if all that is due later is taken away."""
    scheduler, fewer = (Scheduler(16, costs({"a": {1: 0.01}})) for _ in range(2))
    short = job("a", steps)
    due_s = DUE_FACTOR["normal"] * scheduler.work_s(short)
    for queued_steps, n in queue:
        queued = job("a", queued_steps, n)
        queued.due_s = DUE_FACTOR["normal"] * scheduler.work_s(queued)
        scheduler.add(queued)
        if queued.due_s <= due_s:
            fewer.add(job_due("a", queued_steps, n, queued.due_s))

    def is_accepted(by: Scheduler) -> bool:
        try:
            Admission(by, max_queued_images=64, max_backlog_s=1.0).quote(short, now=0.0)
        except Overloaded:
            return False
        return True

    assert is_accepted(scheduler) == is_accepted(fewer)


def job_due(model: str, steps: int, n: int, due_s: float) -> Job:
    queued = job(model, steps, n)
    queued.due_s = due_s
    return queued


def test_a_request_with_too_much_work_is_refused_with_the_values_that_it_may_have() -> None:
    scheduler = Scheduler(16, costs({"a": {1: 0.01}}))
    admission = Admission(scheduler, max_queued_images=1000, max_backlog_s=1000.0, max_request_s=10.0)
    admission.admit(job("a", 500, n=2), now=0.0)
    for n, steps, field, most in ((8, 500, "n", 2), (1, 4000, "steps", 1000)):
        with pytest.raises(TooMuchWork) as refused:
            admission.quote(job("a", steps, n=n), now=0.0)
        (error,) = refused.value.errors
        assert (error.field, error.allowed) == (field, {"min": 1, "max": most})


def test_no_more_images_begin_than_there_is_memory_for_and_all_of_them_end() -> None:
    scheduler = Scheduler(4, costs({"a": {1: 0.01}, "b": {1: 0.01}}), workers=2, max_active=3)
    arrivals = [Arrival(0.001 * i, job("ab"[i % 2], 30 - i, n=3, at_s=0.001 * i)) for i in range(20)]
    most = 0

    class Watched(Scheduler):
        def next_batch(self, now: float, idle: int = 1) -> Batch | None:
            nonlocal most
            batch = super().next_batch(now, idle)
            most = max(most, self.active)
            return batch

    watched = Watched(4, scheduler.costs, workers=2, max_active=3)
    assert len(simulate(arrivals, watched, RULES["ours"])) == 20
    assert all(arrival.job.steps_left == 0 for arrival in arrivals)
    assert most <= 3 + 4 * 2  # a batch begins together
