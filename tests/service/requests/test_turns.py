"""A burst of work is done over many turns of the event loop, in its order, and urgent work does not wait for it."""

import asyncio
from collections.abc import Callable

from service.requests.turns import PIECES, Turns


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


def test_some_pieces_are_done_in_a_turn_and_in_their_order() -> None:
    names = [str(number) for number in range(2 * PIECES + 2)]
    turns = done(lambda turns, work: [turns.take(work(name)) for name in names] and None)
    assert turns == [names[:PIECES], names[PIECES : 2 * PIECES], names[2 * PIECES :]]


def test_urgent_work_passes_the_rest_and_does_not_keep_it_from_its_turn() -> None:
    slow, probes = [[f"{kind} {number}" for number in range(2 * PIECES + 2)] for kind in ("slow", "probe")]

    def give(turns: Turns, work: Callable[[str], Callable[[], None]]) -> None:
        for name in slow:
            turns.take(work(name))
        for name in probes[: PIECES + 2]:
            turns.take(work(name), urgent=True)

    first, second, last = slow[:PIECES], slow[PIECES : 2 * PIECES], slow[2 * PIECES :]
    assert done(give) == [first, probes[:PIECES] + second, probes[PIECES : PIECES + 2] + last]


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
        for number in range(PIECES):
            turns.take(work(str(number)))
        turns.take(lambda: 1 // 0 and None)
        turns.take(work("last"))

    assert done(give) == [[str(number) for number in range(PIECES)], ["last"]]
