"""Reloads follow each other; who asks while one runs shares the next; work that hangs is left behind."""

import threading
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.registry import attempts
from service.registry.attempts import Attempt, in_groups
from service.registry.reloads import Reloads
from service.registry.time_limit import TimeLimit, TimeLimitError
from service.registry.watch import Watch
from tests.conftest import WITHIN_S


def test_a_flood_of_requests_during_a_reload_is_one_reload_more() -> None:
    entered, go, runs = threading.Event(), threading.Event(), []

    def reload() -> None:
        runs.append(len(runs))
        entered.set()
        assert go.wait(WITHIN_S)

    reloads = Reloads(reload, lambda: False, every_s=0)
    first = reloads.request()
    assert entered.wait(WITHIN_S)
    flood = [reloads.request() for _ in range(300)]
    assert len(set(map(id, flood))) == 1
    assert not first.done()
    go.set()
    for future in (first, *flood):
        future.result(WITHIN_S)
    assert runs == [0, 1]
    reloads.end(WITHIN_S)


def test_a_reload_that_fails_tells_those_who_asked_and_the_next_one_runs() -> None:
    results = iter([RuntimeError("broken"), None])

    def reload() -> None:
        if (error := next(results)) is not None:
            raise error

    reloads = Reloads(reload, lambda: False, every_s=0)
    with pytest.raises(RuntimeError, match="broken"):
        reloads.request().result(WITHIN_S)
    reloads.request().result(WITHIN_S)
    reloads.end(WITHIN_S)


def test_between_requests_it_reloads_when_a_look_says_so() -> None:
    looks = iter([False, True, True])
    runs = threading.Semaphore(0)
    reloads = Reloads(runs.release, lambda: next(looks, False), every_s=0.001)
    reloads.request()
    assert all(runs.acquire(timeout=WITHIN_S) for _ in range(3))
    reloads.end(WITHIN_S)
    assert not runs.acquire(blocking=False)


def test_work_that_hangs_is_left_behind_once_until_it_is_done() -> None:
    left: list[str] = []
    limit = TimeLimit(lambda: left.append("left"))
    go = threading.Event()
    with pytest.raises(TimeLimitError, match="longer than"):
        limit.run("a", 0.01, go.wait)
    with pytest.raises(TimeLimitError, match="an earlier attempt still hangs"):
        limit.run("a", WITHIN_S, lambda: 1)
    assert limit.run("b", WITHIN_S, lambda: 2) == 2
    assert left == ["left"]
    go.set()
    limit._left_behind["a"].result(WITHIN_S)
    assert limit.run("a", WITHIN_S, lambda: 3) == 3


def test_the_works_own_timeout_is_an_error_of_the_work() -> None:
    def work() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        TimeLimit(lambda: None).run("a", WITHIN_S, work)


@given(st.integers(0, 20), st.integers(1, 4))
def test_without_slow_ones_all_attempts_are_one_group(count: int, at_a_time: int) -> None:
    folders = [Path(str(number)) for number in range(count)]
    with patch.object(attempts, "GRACE_S", WITHIN_S):
        (group,) = in_groups(folders, lambda folder: Attempt(folder.name, None), at_a_time)
    assert sorted(attempt.folder for attempt in group) == sorted(folder.name for folder in folders)


def test_slow_ones_keep_none_of_the_others_waiting_even_if_they_take_all_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attempts, "GRACE_S", 0.1)
    go = threading.Event()

    def attempt(folder: Path) -> Attempt:
        if folder.name.startswith("slow"):
            assert go.wait(WITHIN_S)
        return Attempt(folder.name, None)

    folders = [Path(name) for name in ("slow-1", "slow-2", *map(str, range(9)))]
    groups = in_groups(folders, attempt, at_a_time=2)
    others: list[str] = []
    while len(others) < 9:  # one group, if nothing else slows this machine down
        others += [each.folder for each in next(groups)]
    assert sorted(others) == sorted(map(str, range(9)))
    go.set()
    assert sorted(each.folder for group in groups for each in group) == ["slow-1", "slow-2"]


def test_a_change_is_due_once_it_has_settled_and_until_it_is_loaded() -> None:
    old, new = frozenset({(Path("a"), 1, 1)}), frozenset({(Path("a"), 2, 2)})
    watch = Watch()
    watch.loaded = old
    assert [watch.is_due(now) for now in (old, old, new, new, new)] == [False, False, False, True, True]
    watch.loaded = new
    assert not watch.is_due(new)
