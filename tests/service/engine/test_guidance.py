"""Guided images take two rows of a batch, mix freely with others, and each is a function of its own request alone."""

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundle.loading import Bundle
from service.engine.jobs import Batch, Job
from service.engine.scheduler import Scheduler
from service.engine.simulate import job as simulated
from tests.conftest import ToyRuntime
from tests.service.engine.conftest import alone, is_empty, job, run, toy_engine


def guided(toy: Bundle, w: float, **request: Any) -> Job:
    return replace(job(toy, **request), guidance=w, no_label=len(toy.manifest.classes))


REQUESTS = [(1.0, {"seed": 1, "n": 3}), (3.0, {"seed": 2, "n": 2, "steps": 7}), (0.0, {"seed": 3, "eta": 1.0})]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("max_batch", [2, 3, 8])
def test_guided_and_other_requests_share_batches_and_get_what_each_gets_alone(
    toy: Bundle, workers: int, max_batch: int
) -> None:
    engine = toy_engine(toy, ToyRuntime(), workers=workers, max_batch=max_batch)

    async def together() -> list[Job]:
        jobs = [guided(toy, w, class_label=0, **request) for w, request in REQUESTS]
        return await asyncio.gather(*(run(engine, queued) for queued in jobs))

    for result, (w, request) in zip(asyncio.run(together()), REQUESTS, strict=True):
        expected = alone(guided(toy, w, class_label=0, **request))
        np.testing.assert_array_equal(np.stack([image.pixels for image in result.images]), expected)
    assert is_empty(engine)
    engine.stop()


def test_a_weight_of_one_is_the_class_and_of_zero_is_no_class(toy: Bundle) -> None:
    request = {"seed": 5, "steps": 4}
    no_class = alone(job(toy, **request))
    np.testing.assert_array_equal(
        alone(guided(toy, 1.0, class_label=1, **request)), alone(job(toy, class_label=1, **request))
    )
    np.testing.assert_allclose(alone(guided(toy, 0.0, class_label=1, **request)), no_class, atol=1e-5)
    assert np.abs(alone(guided(toy, 3.0, class_label=1, **request)) - no_class).max() > 0.01


def test_both_rows_of_a_guided_image_have_the_same_noise_and_each_its_label(toy: Bundle) -> None:
    mixed = [job(toy, seed=1, eta=1.0), guided(toy, 2.0, seed=2, eta=1.0, class_label=0)]
    inputs = Batch([queued.images[0] for queued in mixed]).inputs()
    np.testing.assert_array_equal(inputs.noise[1], inputs.noise[2])
    assert inputs.y.tolist() == [3, 0, 3]
    assert inputs.pair is not None
    assert inputs.weights is not None
    assert inputs.pair.tolist() == [0, 2, 1]
    assert inputs.weights.tolist() == [[1, 0], [2, -1], [-1, 2]]


@given(st.lists(st.tuples(st.sampled_from([1.0, 2.0]), st.integers(1, 4)), min_size=1, max_size=6), st.integers(1, 6))
def test_no_batch_has_more_rows_than_it_may_but_for_one_guided_image(
    requests: list[tuple[float, int]], max_batch: int
) -> None:
    scheduler = Scheduler(max_batch)
    for w, n in requests:
        scheduler.add(replace(simulated("a", 2, n), guidance=w))
    rows = sum(n * (1 if w == 1 else 2) for w, n in requests)
    assert scheduler.ready == rows
    while (batch := scheduler.next_batch(0.0)) is not None:
        assert batch.rows <= max_batch or len(batch.images) == 1
        rows -= batch.rows
    assert rows == 0
