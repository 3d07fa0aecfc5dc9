"""The token bucket of a key's work, in virtual time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import KeySpent
from service.requests.quota import WorkBudget


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.tuples(st.floats(0.01, 10), st.floats(0, 30)), min_size=1, max_size=60))
def test_no_key_gets_more_than_its_rate_a_burst_and_one_request_more(requests: list[tuple[float, float]]) -> None:
    clock = Clock()
    budget, taken_s = WorkBudget("any", 6.0, clock), 0.0
    for work_s, pause_s in requests:
        clock.now += pause_s
        try:
            budget.charge(work_s)
            taken_s += work_s
        except KeySpent:
            pass
    assert taken_s <= 6.0 + (clock.now - 1000.0) * 0.1 + max(work_s for work_s, _ in requests) + 1e-6


def test_a_key_has_its_work_again_at_the_time_that_retry_after_names() -> None:
    clock = Clock()
    budget = WorkBudget("any", 6.0, clock)
    budget.charge(9.0)
    clock.now += 10
    with pytest.raises(KeySpent) as spent:
        budget.charge(1.0)
    assert spent.value.headers == {"Retry-After": "20"}
    clock.now += 20.1
    budget.charge(1.0)


def test_a_refund_never_fills_the_bucket_beyond_a_minutes_work() -> None:
    budget = WorkBudget("any", 6.0, Clock())
    budget.refund(5.0)
    assert budget.left_s == 6.0
