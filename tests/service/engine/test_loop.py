"""The loop in its real thread, over a toy network."""

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

from bundle.loading import Bundle
from service.engine.attempt import attempt
from service.engine.jobs import Batch, Image, Job
from service.engine.runtime import Array, HostStates, States, StepInputs
from service.engine.scheduler import Scheduler
from service.errors import Overloaded, StepFailed, Unavailable
from tests.conftest import WITHIN_S, ToyRuntime
from tests.service.engine.conftest import Held, alone, is_empty, job, new_engine, run, sample, toy_engine

REQUESTS = [
    {"seed": seed, "steps": steps, "n": n, "class_label": label, **solver}
    for seed, (steps, n, label, solver) in enumerate(
        [
            (1, 3, None, {}),
            (7, 1, 0, {"eta": 1.0}),
            (30, 2, 1, {"solver": "dpmpp_2m"}),
            (4, 5, "2", {"eta": 0.5}),
            (9, 2, 1, {"solver": "unipc"}),
            (100, 1, 2, {}),
        ]
    )
]


@pytest.mark.parametrize("workers", [1, 3])
def test_jobs_that_share_batches_get_what_each_gets_alone(toy: Bundle, workers: int) -> None:
    engine = toy_engine(toy, ToyRuntime(), workers=workers)

    async def together() -> list[Job]:
        return await asyncio.gather(*(run(engine, job(toy, **request)) for request in REQUESTS))

    for result, request in zip(asyncio.run(together()), REQUESTS, strict=True):
        for image, expected in zip(result.images, alone(job(toy, **request)), strict=True):
            np.testing.assert_array_equal(image.pixels, expected)
    engine.stop()


def test_a_step_that_fails_ends_the_jobs_in_it_and_no_others(toy: Bundle) -> None:
    runtime = ToyRuntime()
    runtime.fail_on = {1}
    engine = toy_engine(toy, runtime, max_batch=1)

    async def all_of_them() -> list[Job | BaseException]:
        jobs = [job(toy, class_label=label, n=2) for label in (0, 1, 2)]
        return await asyncio.gather(*(run(engine, queued) for queued in jobs), return_exceptions=True)

    first, failed, last = asyncio.run(all_of_them())
    assert isinstance(first, Job)
    assert isinstance(last, Job)
    assert isinstance(failed, StepFailed)
    assert "the toy broke" not in failed.detail  # that is for the log
    engine.stop()


def test_gauges_return_to_zero_and_counters_add_up(toy: Bundle) -> None:
    runtime = ToyRuntime()
    runtime.fail_on = {1}
    engine = toy_engine(toy, runtime)

    async def mixed() -> None:
        jobs = [job(toy, steps=3, n=2), job(toy, steps=3, class_label=1)]
        await asyncio.gather(*(run(engine, queued) for queued in jobs), return_exceptions=True)
        await run(engine, job(toy, steps=3, n=2))

    asyncio.run(mixed())
    engine.stop()
    assert is_empty(engine)
    steps = sample(engine, "trilemma_steps_total", method="toy")
    assert steps == sample(engine, "trilemma_batch_size_sum", method="toy")
    images = sample(engine, "trilemma_images_total", method="toy")
    assert images in (2, 4)  # the first two may share the step that failed
    assert sample(engine, "trilemma_network_seconds_total") <= sample(engine, "trilemma_busy_seconds_total")


class Logging(Held):
    """Also notes the labels of each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[list[int]] = []

    def step(self, inputs: StepInputs) -> tuple[HostStates, HostStates]:
        self.log.append(inputs.y.tolist())
        return super().step(inputs)


def test_a_short_request_behind_a_running_long_one_is_in_the_next_step(toy: Bundle) -> None:
    runtime = Logging()
    engine = toy_engine(toy, runtime)
    engine.scheduler.costs.set(toy.manifest.digest, {1: 1e-3, 4: 1e-3})  # batches of four are efficient

    async def behind() -> None:
        long = engine.submit(job(toy, steps=1000, n=8, class_label=0))
        await asyncio.to_thread(runtime.entered.wait)
        short = engine.submit(job(toy, steps=4, class_label=1))
        runtime.go.set()
        await short
        long.cancel()

    asyncio.run(behind())
    engine.stop()
    assert [1 in labels for labels in runtime.log[:5]] == [False, True, True, True, True]
    assert all(len(labels) == 4 for labels in runtime.log[:5])  # and the long one fills the batches


def test_steps_run_on_all_workers_at_once(toy: Bundle) -> None:
    together = threading.Barrier(3, timeout=WITHIN_S)

    class Meeting(ToyRuntime):
        def step(self, inputs: StepInputs) -> tuple[HostStates, HostStates]:
            together.wait()
            return super().step(inputs)

    engine = toy_engine(toy, Meeting(), workers=3)
    result = asyncio.run(run(engine, job(toy, seed=1, n=3, steps=2)))
    engine.stop()
    for image, expected in zip(result.images, alone(job(toy, seed=1, n=3, steps=2)), strict=True):
        np.testing.assert_array_equal(image.pixels, expected)


def test_a_full_queue_refuses_and_says_when_to_try_again(toy: Bundle) -> None:
    runtime = Held()
    engine = toy_engine(toy, runtime, max_queued_images=3)

    async def overload() -> None:
        accepted = engine.submit(job(toy, n=2))
        await asyncio.to_thread(runtime.entered.wait)
        engine.scheduler.costs.set(toy.manifest.digest, {1: 0.5, 4: 2.0})
        with pytest.raises(Overloaded) as refused:
            await run(engine, job(toy, n=2))
        assert refused.value.headers == {"Retry-After": "5"}  # 2 images of 5 steps of half a second
        runtime.go.set()
        await accepted
        await run(engine, job(toy, n=2))  # there is room again

    asyncio.run(overload())
    engine.stop()


def test_stopping_finishes_accepted_jobs_and_accepts_no_more(toy: Bundle) -> None:
    runtime = Held()
    engine = toy_engine(toy, runtime, max_batch=1)

    async def stop_meanwhile() -> None:
        accepted = [engine.submit(job(toy, n=3)) for _ in range(3)]
        await asyncio.to_thread(runtime.entered.wait)
        stopping = asyncio.create_task(asyncio.to_thread(engine.stop))
        runtime.go.set()
        await stopping
        for result in await asyncio.gather(*accepted):
            assert all(image.finished for image in result.images)
        with pytest.raises(Unavailable):
            await run(engine, job(toy))

    asyncio.run(stop_meanwhile())
    assert not engine.alive


class LosesImages(Scheduler):
    """Forgets the images that finish, and then fails."""

    def advance(self, batch: Batch, x: States, x0: States) -> list[Image]:
        if super().advance(batch, x, x0):
            raise ZeroDivisionError("a bug")
        return []


class ChoosesNone(Scheduler):
    def next_batch(self, now: float, idle: int = 1) -> None:
        return None


class CannotDrop(Scheduler):
    def advance(self, batch: Batch, x: States, x0: States) -> list[Image]:
        raise ZeroDivisionError("a bug")

    def drop(self, job: Job) -> None:
        raise ZeroDivisionError("another bug")


class CannotAdd(Scheduler):
    def add(self, job: Job) -> None:
        raise ZeroDivisionError("a bug")


@pytest.mark.parametrize("policy", [LosesImages, ChoosesNone, CannotDrop, CannotAdd])
def test_a_bug_in_the_loop_fails_every_job_and_stops_the_engine(toy: Bundle, policy: type[Scheduler]) -> None:
    engine = new_engine({toy.manifest.digest: ToyRuntime()}, max_batch=2, policy=policy)
    engine.start()

    async def all_of_them() -> list[Job | BaseException]:
        return await asyncio.gather(*(run(engine, job(toy, n=2)) for _ in range(4)), return_exceptions=True)

    answers = asyncio.run(all_of_them())
    assert isinstance(answers[0], StepFailed)
    assert all(isinstance(answer, StepFailed | Unavailable) for answer in answers)
    engine.stop()
    assert not engine.alive
    assert is_empty(engine)


def test_a_caller_that_has_gone_away_does_not_stop_the_engine(toy: Bundle) -> None:
    runtime = Held()
    engine = toy_engine(toy, runtime)

    async def give_up() -> None:
        future = engine.submit(job(toy))
        await asyncio.to_thread(runtime.entered.wait)
        future.cancel()

    asyncio.run(give_up())  # and its event loop is closed
    runtime.go.set()
    assert asyncio.run(run(engine, job(toy, n=2))).images[1].finished
    engine.stop()


def test_an_engine_that_was_not_started_accepts_nothing(toy: Bundle) -> None:
    engine = new_engine({toy.manifest.digest: ToyRuntime()})
    with pytest.raises(Unavailable):
        asyncio.run(run(engine, job(toy)))


def test_the_times_of_a_step_and_of_each_preview_are_measured_apart(toy: Bundle) -> None:
    class Clock(ToyRuntime):
        now = 0.0

        def step(self, inputs: StepInputs) -> tuple[HostStates, HostStates]:
            self.now += 1.0
            return super().step(inputs)

        def decode(self, states: States) -> Array:
            self.now += 10.0 * states.shape[0]
            return super().decode(states)

    def seconds(**changes: Any) -> tuple[float, float]:
        runtime = Clock()
        queued = job(toy, steps=5, n=3, **changes)
        queued.watch = lambda _: None
        result = attempt(Batch(queued.images), runtime, lambda: runtime.now)
        return result.seconds, result.preview_s

    assert seconds() == (1.0, 0.0)
    assert seconds(preview_every=1) == (1.0, 10.0)
    assert seconds(preview_every=2) == (1.0, 0.0)
