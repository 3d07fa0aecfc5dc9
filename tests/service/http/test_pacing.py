"""A burst of requests begins over many turns of the event loop, in its order, and health does not wait for it."""

import asyncio
from typing import Any

import pytest

from service.http.pacing import AT_ONCE, PER_TURN, Pacing

BURST = 10 * PER_TURN + 3


def scope(path: str) -> dict[str, Any]:
    return {"type": "http", "path": path}


async def nothing(*_: Any) -> Any:
    return None


def begun(paths: list[str]) -> list[list[int]]:
    """The requests that begin in each turn, by their number, when all come at once."""
    turns: list[list[int]] = []

    async def app(scope: Any, *_: Any) -> None:
        turns[-1].append(scope["number"])

    async def burst() -> None:
        pacing, loop = Pacing(app), asyncio.get_running_loop()

        def turn() -> None:
            turns.append([])
            loop.call_soon(turn)

        turn()
        calls = (pacing({**scope(path), "number": number}, nothing, nothing) for number, path in enumerate(paths))
        await asyncio.gather(*calls)

    asyncio.run(burst())
    return [turn for turn in turns if turn]


def test_so_many_begin_in_a_turn_and_in_their_order() -> None:
    turns = begun(["/generate"] * BURST)
    assert max(map(len, turns)) == PER_TURN
    assert [number for turn in turns for number in turn] == list(range(BURST))


@pytest.mark.parametrize("path", sorted(AT_ONCE))
def test_health_is_answered_in_the_first_turn(path: str) -> None:
    assert BURST in begun(["/generate"] * BURST + [path])[0]


def test_a_request_whose_client_has_gone_holds_up_nobody() -> None:
    begun: list[str] = []

    async def app(scope: Any, *_: Any) -> None:
        begun.append(scope["path"])

    async def burst() -> None:
        pacing = Pacing(app)
        waiting = [asyncio.create_task(pacing(scope(f"/{i}"), nothing, nothing)) for i in range(3 * PER_TURN)]
        await asyncio.sleep(0)
        for gone in waiting[PER_TURN:-1]:
            gone.cancel()
        await waiting[-1]

    asyncio.run(burst())
    assert begun == [*(f"/{i}" for i in range(PER_TURN)), f"/{3 * PER_TURN - 1}"]
