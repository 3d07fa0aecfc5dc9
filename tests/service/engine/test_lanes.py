"""The terms of bounds as rows: each is taken once, and an image's numbers are those that it gets alone."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundle.loading import Bundle
from models.bound import Parts
from service.engine import noise
from service.engine.jobs import MAX_IMAGES, Batch, Job
from service.engine.lanes import Lane, LikelihoodJob, Subject, lanes_of
from service.engine.runtime import HostStates, StepInputs
from service.errors import Cancelled, StepFailed
from tests.conftest import SHAPE, ToyRuntime
from tests.service.engine.conftest import Held, is_empty, job, run, toy_engine

TERMS = 5


def subject(toy: Bundle, index: int, seed: int = 1, terms: int = TERMS) -> Subject:
    image = np.random.default_rng(index).integers(0, 256, SHAPE).astype(np.uint8)
    assert toy.bound is not None
    return Subject(image, index, index % 3, toy.bound, toy.bound.terms(noise.start(seed, index), terms))


def scoring(toy: Bundle, indices: list[int], seed: int = 1, terms: int = TERMS) -> LikelihoodJob:
    subjects = [subject(toy, index, seed, terms) for index in indices]
    table = subjects[0].terms.table
    return LikelihoodJob(
        id="",
        method="toy",
        model=toy.manifest.digest,
        coefficients=table,
        shape=SHAPE,
        z_dim=0,
        label=0,
        seed=seed,
        n=len(indices) * lanes_of(len(indices), len(table)),
        submitted_s=0.0,
        subjects=subjects,
    )


def alone(toy: Bundle, index: int, seed: int = 1, terms: int = TERMS) -> Parts:
    """Without an engine, a row at a time."""
    (own,) = (one := scoring(toy, [index], seed, terms)).subjects
    for lane in one.images:
        assert isinstance(lane, Lane)
        while not lane.finished:
            x, x0 = ToyRuntime().step(Batch([lane]).inputs())
            lane.nats.append(lane.term(x0[0], x[0]))
            lane.advance(x[0], x0[0])
    assert len(own.terms.table) == one.steps
    (parts,) = one.parts()
    return parts


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("max_batch", [1, 3, 8])
def test_an_image_gets_the_numbers_that_it_gets_alone_whatever_shares_its_batches(
    toy: Bundle, workers: int, max_batch: int
) -> None:
    runtime = ToyRuntime()
    engine = toy_engine(toy, runtime, workers=workers, max_batch=max_batch, max_queued_images=1000)

    async def together() -> list[Job]:
        jobs = [scoring(toy, [0, 1, 2]), job(toy, seed=1, n=3), scoring(toy, [2, 7]), scoring(toy, [2], seed=9)]
        return await asyncio.gather(*(run(engine, each) for each in jobs))

    first, images, second, other_seed = asyncio.run(together())
    assert isinstance(first, LikelihoodJob)
    assert isinstance(second, LikelihoodJob)
    assert isinstance(other_seed, LikelihoodJob)
    expected = {index: alone(toy, index) for index in (0, 1, 2, 7)}
    assert first.parts() == [expected[0], expected[1], expected[2]]
    assert second.parts() == [expected[2], expected[7]]
    assert other_seed.parts() == [alone(toy, 2, seed=9)] != [expected[2]]
    assert [image.pixels.shape for image in images.images] == [SHAPE] * 3
    assert max(runtime.batches) <= max_batch
    assert is_empty(engine)
    engine.stop()


@given(images=st.integers(1, MAX_IMAGES), terms=st.integers(1, 999))
def test_every_term_of_every_image_is_a_step_of_one_lane(images: int, terms: int) -> None:
    lanes = lanes_of(images, terms)
    assert 1 <= images * lanes <= MAX_IMAGES
    places = sorted(place for first in range(lanes) for place in range(first, terms, lanes))
    assert places == list(range(terms))


def test_a_lane_is_done_after_its_own_terms(toy: Bundle) -> None:
    whole = scoring(toy, list(range(30)))  # two lanes each, of 4 and 3 terms
    assert [lane.steps for lane in whole.images[:2]] == [4, 3]
    assert whole.steps_left == 30 * (TERMS + 2)


def test_terms_are_spread_over_the_batches_of_one_image(toy: Bundle) -> None:
    runtime = ToyRuntime()
    engine = toy_engine(toy, runtime, max_batch=8)
    asyncio.run(run(engine, scoring(toy, [0], terms=14)))
    engine.stop()
    assert runtime.batches[0] == 8


def test_a_job_whose_terms_are_not_finite_fails_and_the_others_do_not(toy: Bundle) -> None:
    class BadX0(ToyRuntime):
        def step(self, inputs: StepInputs) -> tuple[HostStates, HostStates]:
            x, x0 = super().step(inputs)
            bad = np.where((inputs.y == 2)[:, None, None, None], np.float32("nan"), x0.array)
            return x, HostStates(bad.astype(np.float32))

    engine = toy_engine(toy, BadX0(), max_batch=8)

    async def together() -> list[Job | BaseException]:
        jobs = [scoring(toy, [0, 1]), scoring(toy, [1, 2])]
        return await asyncio.gather(*(run(engine, each) for each in jobs), return_exceptions=True)

    good, bad = asyncio.run(together())
    assert isinstance(good, LikelihoodJob)
    assert good.parts() == [alone(toy, 0), alone(toy, 1)]
    assert isinstance(bad, StepFailed)
    assert is_empty(engine)
    engine.stop()


def test_a_cancelled_job_leaves_between_two_of_its_terms(toy: Bundle) -> None:
    runtime = Held()
    engine = toy_engine(toy, runtime, max_batch=2)
    one = scoring(toy, [0])

    async def leave() -> None:
        ended = engine.submit(one)
        await asyncio.to_thread(runtime.entered.wait)
        engine.cancel(one)
        runtime.go.set()
        with pytest.raises(Cancelled):
            await ended

    asyncio.run(leave())
    engine.stop()
    assert is_empty(engine)
    assert len(runtime.batches) == 1


def test_the_starts_of_a_seeds_images_are_spread_evenly() -> None:
    starts = np.sort([noise.start(5, index) for index in range(100)])
    assert np.diff(starts).max() < 0.025
    assert (starts >= 0).all()
    assert (starts < 1).all()
    assert noise.start(5, 3) == noise.start(5, 3) != noise.start(6, 3)


def test_a_term_has_noise_of_its_own(toy: Bundle) -> None:
    one = replace(scoring(toy, [0]), seed=2)
    drawn = []
    for lane in one.images:
        lane.draw_initial()
        assert isinstance(lane, Lane)
        terms, k = lane.subject.terms, lane.place
        assert lane.x is not None
        drawn.append((lane.x - terms.alpha[k] * lane.subject.image) / terms.sigma[k])
    assert len({each.tobytes() for each in drawn}) == TERMS + 2
