"""A burst of work is done over many turns of the event loop, in its order, and urgent work does not wait for it."""

import asyncio
from collections.abc import Callable

from service.http.turns import URGENT, Turns


def done(give: Callable[[Turns, Callable[[str], Callable[[], None]]], None]) -> list[list[str]]:
    """The pieces of work that are done in each turn, by name, of those that `give` hands over at once."""
    turns: list[list[str]] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()

        def turn() -> None:
            turns.append([])
            if len(turns) < 50:
                loop.call_soon(turn)

        turn()
        give(Turns(), lambda name: lambda: turns[-1].append(name))
        while len(turns) < 50:
            await asyncio.sleep(0)

    asyncio.run(run())
    return [turn for turn in turns if turn]


def test_a_piece_is_done_in_a_turn_and_in_their_order() -> None:
    names = [str(number) for number in range(20)]
    assert done(lambda turns, work: [turns.take(work(name)) for name in names] and None) == [[name] for name in names]


def test_urgent_work_passes_the_rest_and_does_not_keep_it_from_its_turn() -> None:
    def give(turns: Turns, work: Callable[[str], Callable[[], None]]) -> None:
        for number in range(4):
            turns.take(work(f"slow {number}"))
        for number in range(URGENT + 1):
            turns.take(work(f"probe {number}"), urgent=True)

    probes = [f"probe {number}" for number in range(URGENT)]
    assert done(give) == [["slow 0"], [*probes, "slow 1"], [f"probe {URGENT}", "slow 2"], ["slow 3"]]


def test_work_that_comes_alone_is_done_at_once() -> None:
    async def run() -> list[str]:
        turns, finished = Turns(), list[str]()
        for name in "abc":
            turns.take(lambda name=name: finished.append(name))  # type: ignore[misc]
            assert finished[-1] == name
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        return finished

    assert asyncio.run(run()) == ["a", "b", "c"]


def test_work_that_fails_does_not_keep_the_rest_from_its_turn() -> None:
    def give(turns: Turns, work: Callable[[str], Callable[[], None]]) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        turns.take(work("first"))
        turns.take(lambda: 1 // 0 and None)
        turns.take(work("last"))

    assert done(give) == [["first"], ["last"]]
