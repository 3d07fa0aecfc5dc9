"""The cache and the sharing of identical work."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.service.test_engine import job

from bundle.manifest import Bundle
from service.engine.jobs import Job
from service.requests.cache import Cache, Coalescer


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 12))))
def test_the_cache_never_holds_more_than_its_bytes_and_gives_back_what_was_put(puts: list[tuple[str, int]]) -> None:
    cache = Cache(max_bytes=20)
    for tag, size in puts:
        if cache.get(tag) is None:
            cache.put(tag, [tag.encode() * size])
            assert cache.get(tag) == [tag.encode() * size]
        assert cache.bytes == sum(len(file) for each in "abcdef" for file in cache.get(each) or []) <= 20


def test_the_least_recently_used_is_forgotten_first_and_what_is_too_large_is_not_kept() -> None:
    cache = Cache(max_bytes=2)
    cache.put("a", [b"1"])
    cache.put("b", [b"2"])
    cache.get("a")
    cache.put("c", [b"3"])
    cache.put("d", [b"456"])
    assert [cache.get(tag) for tag in "abcd"] == [[b"1"], None, [b"3"], None]


def test_identical_requests_share_one_job_and_one_that_leaves_does_not_end_it(toy: Bundle) -> None:
    asked, started, ended = job(toy), [], asyncio.Event()

    async def start() -> Job:
        started.append(asked)
        await ended.wait()
        return asked

    async def share() -> None:
        flights = Coalescer()
        first, second, third = (asyncio.create_task(flights.run("key", start)) for _ in range(3))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        ended.set()
        assert await second is await third is asked
        assert len(started) == 1
        assert "key" not in flights

    asyncio.run(share())


def test_a_shared_job_is_cancelled_when_the_last_leaves_and_is_not_joined_after(toy: Bundle) -> None:
    cancelled = []

    async def start() -> Job:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise
        raise AssertionError

    async def leave() -> None:
        flights = Coalescer()
        tasks = [asyncio.create_task(flights.run("key", start)) for _ in range(2)]
        await asyncio.sleep(0.0)
        for task in tasks:
            assert not cancelled
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert "key" not in flights
        await asyncio.sleep(0)
        assert cancelled == [True]

    asyncio.run(leave())
