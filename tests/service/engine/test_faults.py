"""Cancels, faults and NaN in the engine's real thread: every job ends once, and its neighbours do not notice."""

import asyncio
import random

import numpy as np
import pytest

from bundle.loading import Bundle
from service.engine.jobs import Job
from service.engine.loop import FAILURES, Engine
from service.engine.runtime import HostStates, StepInputs
from service.errors import OutOfService, Overloaded, StepFailed
from tests.conftest import ToyRuntime
from tests.service.engine.conftest import Held, alone, is_empty, job, new_engine, run, sample, toy_engine


class Poisoned(ToyRuntime):
    """Gives NaN to rows of class 1."""

    def step(self, inputs: StepInputs) -> tuple[HostStates, HostStates]:
        x, x0 = super().step(inputs)
        x.array[inputs.y == 1] = np.nan
        return x, x0


class Broken(ToyRuntime):
    """Fails with any row of class 1."""

    def __init__(self) -> None:
        super().__init__()
        self.fail_on = {1}


def outcomes(engine: Engine, jobs: list[Job]) -> list[Job | BaseException]:
    async def all_of_them() -> list[Job | BaseException]:
        return await asyncio.gather(*(run(engine, job) for job in jobs), return_exceptions=True)

    return asyncio.run(all_of_them())


@pytest.mark.parametrize("runtime", [Poisoned, Broken])
def test_only_the_poisoned_request_fails_and_its_neighbours_bytes_are_as_without_it(
    toy: Bundle, runtime: type[ToyRuntime]
) -> None:
    engine = toy_engine(toy, runtime(), max_batch=8)
    labels = [0, 1, 2, 0, 1, None]
    requests = [{"seed": seed, "class_label": label, "n": 2, "steps": 6} for seed, label in enumerate(labels)]
    results = outcomes(engine, [job(toy, **request) for request in requests])
    for request, result in zip(requests, results, strict=True):
        if request["class_label"] == 1:
            assert isinstance(result, StepFailed)
            continue
        assert isinstance(result, Job)
        for image, expected in zip(result.images, alone(job(toy, **request)), strict=True):
            np.testing.assert_array_equal(image.pixels, expected)
    engine.stop()


def test_a_model_that_keeps_failing_is_taken_out_and_another_goes_on(toy: Bundle) -> None:
    engine = new_engine({"bad": Broken(), "good": ToyRuntime()}, max_batch=2)
    engine.start()
    jobs = [job(toy, class_label=1) for _ in range(FAILURES + 3)] + [job(toy, seed=5)]
    for failing in jobs[:-1]:
        failing.model = "bad"
    jobs[-1].model = "good"
    *failed, fine = outcomes(engine, jobs)
    assert all(isinstance(error, StepFailed | OutOfService) for error in failed)
    assert sum(isinstance(error, StepFailed) for error in failed) == FAILURES
    assert isinstance(fine, Job)
    assert engine.out_of_service == {"bad"}
    again = job(toy)
    again.model = "bad"
    assert isinstance(outcomes(engine, [again])[0], OutOfService)
    assert engine.alive
    engine.stop()


def test_a_cancelled_job_is_in_no_step_after_the_one_that_was_running(toy: Bundle) -> None:
    runtime = Held()
    engine = toy_engine(toy, runtime, max_batch=4)

    async def cancel_one() -> Job:
        kept = engine.submit(job(toy, steps=3, seed=3))
        dropped = engine.submit(job(toy, steps=1000, n=3))
        await asyncio.to_thread(runtime.entered.wait)
        dropped.cancel()
        await asyncio.sleep(0)
        runtime.go.set()
        return await kept

    finished = asyncio.run(cancel_one())
    engine.stop()
    np.testing.assert_array_equal(finished.images[0].pixels, alone(job(toy, steps=3, seed=3))[0])
    assert sum(runtime.batches) <= 4 + 4 + 3  # at most the step that ran, and one before it
    assert not engine.jobs


@pytest.mark.parametrize("workers", [1, 3])
def test_after_a_thousand_cancels_faults_and_answers_nothing_is_left(toy: Bundle, workers: int) -> None:
    engine = toy_engine(toy, Broken(), max_batch=4, max_queued_images=64, workers=workers)
    chance = random.Random(0)  # noqa: S311
    ends: list[str] = []

    async def one(number: int) -> None:
        request = {"seed": number, "n": chance.randint(1, 3), "steps": chance.randint(1, 6)}
        task = asyncio.create_task(run(engine, job(toy, **request, class_label=chance.choice([0, 0, 0, 0, 1, 2]))))
        if chance.random() < 0.4:
            for _ in range(chance.randint(0, 30)):
                await asyncio.sleep(0)
            task.cancel()
        try:
            result = await task
            for image, expected in zip(
                result.images, alone(job(toy, **request, class_label=result.label)), strict=True
            ):
                np.testing.assert_array_equal(image.pixels, expected)
            ends.append("done")
        except (StepFailed, Overloaded, OutOfService) as error:
            engine.install(toy.manifest.digest, engine.runtimes[toy.manifest.digest], {1: 1e-3})
            ends.append(type(error).__name__)
        except asyncio.CancelledError:
            ends.append("cancelled")

    async def waves() -> None:
        for start in range(0, 1000, 25):
            await asyncio.gather(*(one(number) for number in range(start, start + 25)))

    asyncio.run(waves())
    engine.stop()
    assert len(ends) == 1000
    assert {"done", "StepFailed", "cancelled"} <= set(ends)
    assert is_empty(engine)


def test_a_deadline_that_cannot_be_met_is_refused_and_a_missed_one_is_counted(toy: Bundle) -> None:
    now = 0.0

    class Slow(ToyRuntime):
        def step(self, inputs: StepInputs) -> tuple[HostStates, HostStates]:
            nonlocal now
            now += 100.0
            return super().step(inputs)

    engine = new_engine({toy.manifest.digest: Slow()}, clock=lambda: now)
    engine.scheduler.costs.set(toy.manifest.digest, {1: 1.0, 4: 1.0})  # a flattering estimate
    engine.start()
    late, missed = job(toy, steps=10), job(toy, steps=2)
    late.deadline_s, missed.deadline_s = 5.0, 50.0
    refused, finished = outcomes(engine, [late, missed])
    assert isinstance(refused, Overloaded)
    assert isinstance(finished, Job)
    engine.stop()
    assert sample(engine, "trilemma_missed_deadlines_total", method="toy") == 1
