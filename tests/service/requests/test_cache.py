"""The cache and the sharing of identical work."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundle.loading import Bundle
from service.engine.jobs import Job
from service.errors import Unavailable
from service.requests.cache import Cache, Coalescer
from tests.service.engine.conftest import job


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


@pytest.fixture
def shared(toy: Bundle) -> Job:
    return job(toy)


def test_identical_requests_share_one_job_and_one_that_leaves_does_not_end_it(shared: Job) -> None:
    async def share() -> None:
        coalescer, started = Coalescer(), list[asyncio.Future[Job]]()

        def submit() -> asyncio.Future[Job]:
            started.append(asyncio.get_running_loop().create_future())
            return started[-1]

        first, second, third = (coalescer.join("key", submit) for _ in range(3))
        first.cancel()
        await asyncio.sleep(0)
        started[0].set_result(shared)
        assert await second is await third is shared
        assert len(started) == 1
        assert "key" not in coalescer

    asyncio.run(share())


def test_a_shared_job_is_cancelled_when_the_last_leaves_and_is_not_joined_after(toy: Bundle) -> None:
    async def leave() -> None:
        coalescer, started = Coalescer(), asyncio.get_running_loop().create_future()
        joined = [coalescer.join("key", lambda: started) for _ in range(2)]
        for future in joined:
            assert not started.cancelled()
            future.cancel()
            await asyncio.sleep(0)
        assert "key" not in coalescer
        assert started.cancelled()

    asyncio.run(leave())


def test_a_refused_job_is_shared_with_nobody() -> None:
    def refuse() -> asyncio.Future[Job]:
        raise Unavailable("not now")

    async def join() -> None:
        coalescer = Coalescer()
        with pytest.raises(Unavailable):
            coalescer.join("key", refuse)
        assert "key" not in coalescer

    asyncio.run(join())
