"""An image is a pure function of its request: the same bytes in any company, in any place, on any number of threads."""

import asyncio
import hashlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundle.loading import Bundle, load
from service.engine import noise
from service.engine.jobs import Batch, Image
from service.requests.request import MAX_SEED
from service.runtimes.cpu import OrtRuntime
from tests.conftest import SHIPPED
from tests.contracts.conftest import serving
from tests.service.engine.conftest import job

SIZES = (*range(1, 17), 24, 32)
BUNDLES = [load(path.parent) for path in sorted(SHIPPED.parent.glob("*/manifest.json"))]
SHARES = (0.0, 0.37, 1.0)  # of a setting's range

seeds = st.integers(0, MAX_SEED)
requests = st.builds(
    lambda steps, seed, class_label, way: {"steps": steps, "seed": seed, "class_label": class_label, "way": way},
    steps=st.sampled_from([1, 2, 4, 20, 50, 999, 1000]),
    seed=seeds,
    class_label=st.none() | st.integers(0, 9),
    way=st.integers(0, 100),
)
rows = st.tuples(requests, st.integers(0, 999))


@pytest.fixture(scope="module", params=BUNDLES, ids=lambda bundle: bundle.manifest.name)
def bundle(request: pytest.FixtureRequest) -> Bundle:
    """Each of the shipped ones."""
    found: Bundle = request.param
    return found


def fitted(bundle: Bundle, *, way: int, steps: int, **request: Any) -> dict[str, Any]:
    """A request to a model, steps that it takes, by one of its solvers with one of their settings."""
    ways = [
        {
            "solver": name,
            "settings": {key: low + share * (high - low) for key, (low, high, _) in solver.settings.items()},
        }
        for name, solver in bundle.solvers.items()
        for share in SHARES
    ]
    chosen = ways[way % len(ways)]
    only = bundle.solvers[chosen["solver"]].steps
    steps = only[steps % len(only)] if only else min(steps, bundle.max_steps)
    return {"method": bundle.manifest.name, "steps": steps, **chosen, **request}


@pytest.fixture(scope="module")
def runtimes(bundle: Bundle) -> dict[int, OrtRuntime]:
    return {threads: OrtRuntime(bundle, threads) for threads in (1, 2)}


def on_its_way(bundle: Bundle, request: dict[str, Any], step: int) -> Image:
    """An image of the request that is about to take this step of its plan, its state as good as any."""
    (image,) = job(bundle, **fitted(bundle, **request)).images
    image.draw_initial()
    image.step = step % image.job.steps
    image.x0, *older = (noise.normal(image.job.seed, 0, 10_000 + i, image.job.shape).clip(-1, 1) for i in range(3))
    image.older = tuple(older[: max(image.step - 1, 0)]) if image.job.reads_older else ()
    return image


def results(runtime: OrtRuntime, images: Sequence[Image]) -> list[bytes]:
    """The bytes of each row's x and x0 after a step together, and of the images that they are."""
    x, x0 = runtime.step(Batch(list(images)).inputs())
    decoded = runtime.decode(x)
    return [x[row].tobytes() + x0[row].tobytes() + decoded[row].tobytes() for row in range(len(images))]


def test_a_row_has_the_same_bytes_at_every_batch_size_in_every_place_on_one_and_two_threads(
    bundle: Bundle, runtimes: dict[int, OrtRuntime]
) -> None:
    rng = np.random.default_rng(0)
    pool = [
        on_its_way(
            bundle,
            {
                "steps": int(rng.integers(1, 1001)),
                "seed": int(rng.integers(2**63)),
                "class_label": int(rng.integers(10)),
                "way": i,
            },
            step=int(rng.integers(1000)),
        )
        for i in range(max(SIZES))
    ]
    alone = [results(runtimes[1], [image])[0] for image in pool]
    assert len(set(alone)) == len(pool)
    for threads, runtime in runtimes.items():
        for size in SIZES:
            for place in range(size) if size <= 16 else (0, size // 2, size - 1):
                others = rng.permutation(np.arange(1, len(pool)))[: size - 1].tolist()
                order = [*others[:place], 0, *others[place:]]
                got = results(runtime, [pool[i] for i in order])
                assert got == [alone[i] for i in order], f"{threads} threads, batch of {size}, image 0 at {place}"


@settings(max_examples=40)
@given(company=st.lists(rows, min_size=1, max_size=32), threads=st.sampled_from([1, 2]), data=st.data())
def test_a_row_does_not_see_its_neighbours(
    bundle: Bundle, runtimes: dict[int, OrtRuntime], company: list[Any], threads: int, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(company) - 1))
    images = [on_its_way(bundle, *row) for row in company]
    assert results(runtimes[threads], images)[place] == results(runtimes[1], [images[place]])[0]


def mixed_requests(count: int) -> list[dict[str, Any]]:
    """Of every model, solver and setting; most short, one in fifty long."""
    rng = np.random.default_rng(1)
    return [
        fitted(
            BUNDLES[rng.integers(len(BUNDLES))],
            way=int(rng.integers(100)),
            steps=int(rng.integers(50, 100) if rng.random() < 0.02 else rng.integers(1, 9)),
            seed=int(rng.integers(2**63)),
            n=int(rng.choice([1, 1, 1, 2, 5])),
            class_label=None if rng.random() < 0.2 else int(rng.integers(10)),
            priority=str(rng.choice(["low", "normal", "high"])),
        )
        for _ in range(count)
    ]


async def digests(client: Any, asked: list[dict[str, Any]], at_once: int) -> list[str]:
    """SHA-256 of each answer, so many requests under way at a time."""
    found, waiting = [""] * len(asked), iter(range(len(asked)))

    async def keep_asking() -> None:
        for i in waiting:
            answer = await client.post("/generate", json=asked[i], headers={"Accept": "application/x-npy"})
            assert answer.status_code == 200, answer.text
            found[i] = hashlib.sha256(answer.content).hexdigest()

    await asyncio.gather(*(keep_asking() for _ in range(at_once)))
    return found


def test_two_thousand_requests_in_a_mixed_load_give_the_bytes_that_each_gives_alone() -> None:
    async def alone(asked: list[dict[str, Any]]) -> list[str]:
        async with serving(workers=1, max_batch=1, max_backlog_s=3600) as client:
            return await digests(client, asked, at_once=1)

    async def together(asked: list[dict[str, Any]]) -> list[str]:
        async with serving(full_batches=True, workers=2, threads=2, max_backlog_s=3600) as client:
            found = await digests(client, asked, at_once=64)
            metrics = (await client.get("/metrics")).text
        rows, steps = (
            sum(map(float, re.findall(rf"^trilemma_batch_size_{name}.* (\S+)$", metrics, re.MULTILINE)))
            for name in ("sum", "count")
        )
        assert rows / steps > 5  # they did share their batches
        return found

    asked = mixed_requests(2000)
    found = asyncio.run(together(asked))
    assert found == asyncio.run(alone(asked))
    assert len(set(found)) == len(asked)
