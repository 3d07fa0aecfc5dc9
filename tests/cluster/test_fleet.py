"""Which replica a request goes to."""

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cluster.call import Call
from cluster.fleet import MAX_OWNERS, Fleet
from tests.cluster.test_call import call

METHODS = {"ddim": {"alone_s": 0.01, "row_s": 0.01, "steps": 20}}


def fleet(ids: str = "ab", **report: Any) -> Fleet:
    replicas = Fleet()
    replicas.update({id: {"url": f"http://{id}", "workers": 1, "methods": METHODS, **report} for id in ids})
    return replicas


def request(**fields: Any) -> Call:
    return call(body={"method": "ddim", **fields})


def chosen(replicas: Fleet, call: Call, *without: str) -> str | None:
    replica = replicas.choose(call, now=0.0, without=without)
    return replica and replica.id


def test_a_request_goes_where_it_is_predicted_to_end_first() -> None:
    replicas = fleet()
    for seed in range(4):  # whatever the hash says
        replicas.replicas["a"].begin(request(seed=100 + seed, steps=50))
        assert chosen(replicas, request(seed=seed, priority="low")) == "b"


def test_work_that_is_due_later_is_not_waited_for() -> None:
    replicas = fleet()
    long, short = request(steps=1000), request(steps=4)
    replicas.replicas["a"].begin(long)
    ends = [replica.predicted_end_s(short) for replica in replicas.replicas.values()]
    assert ends == [0.04, 0.04]
    replicas.replicas["a"].begin(request(steps=4))
    assert replicas.replicas["a"].predicted_end_s(short) == 0.08


def test_a_deadline_moves_a_request_before_others() -> None:
    replica = fleet("a").replicas["a"]
    replica.begin(request(steps=4))
    assert replica.predicted_end_s(request(steps=100, deadline_ms=1100)) == 1.0


def test_workers_share_the_work_before_and_the_images_of_a_request() -> None:
    replica = fleet("a", workers=2).replicas["a"]
    assert replica.predicted_end_s(request(steps=10, n=4)) == 0.2
    replica.begin(request(steps=10, n=4))
    assert abs(replica.predicted_end_s(request(steps=10, n=4)) - 0.4) < 1e-9


@given(st.lists(st.integers(0, 2**32), min_size=1, max_size=20, unique=True))
def test_a_repeated_request_goes_to_the_replica_that_has_it(seeds: list[int]) -> None:
    replicas = fleet("abc")
    first = {}
    for seed in seeds:
        first[seed] = chosen(replicas, request(seed=seed))
        replicas.replicas[first[seed] or ""].begin(request(seed=seed, steps=100))  # it is busy from now on
    assert first == {seed: chosen(replicas, request(seed=seed)) for seed in seeds}


def test_idle_replicas_share_requests_and_a_new_router_chooses_as_the_old_one() -> None:
    places = {seed: chosen(fleet("abc"), request(seed=seed)) for seed in range(300)}
    assert places == {seed: chosen(fleet("abc"), request(seed=seed)) for seed in range(300)}
    assert min(Counter(places.values()).values()) > 60
    left = {seed: chosen(fleet("ab"), request(seed=seed)) for seed in range(300)}
    assert all(left[seed] == place for seed, place in places.items() if place != "c")  # Thaler and Ravishankar


def test_a_replica_that_refused_or_is_away_is_not_asked() -> None:
    replicas = fleet()
    assert chosen(replicas, request(seed=1), "a") == "b"
    assert chosen(replicas, request(seed=1), "a", "b") is None
    replicas.replicas["a"].away_until_s = 1.0
    assert chosen(replicas, request(seed=2)) == "b"


def test_what_is_under_way_outlives_a_report_and_ends_with_its_replica() -> None:
    replicas = fleet()
    replica, under_way = replicas.replicas["a"], request(steps=50)
    replica.begin(under_way)
    replicas.update({"a": {"url": "http://a", "workers": 1, "methods": METHODS}})
    assert list(replicas.replicas) == ["a"]
    replica.end(under_way)
    assert replicas.replicas["a"].predicted_end_s(request(steps=1)) == 0.01


def test_memory_of_requests_is_bounded() -> None:
    replicas = fleet()
    one = request(seed=1)
    for number in range(MAX_OWNERS + 10):
        one.key = number.to_bytes(8, "big")
        replicas.choose(one, 0.0)
    assert len(replicas._owners) == MAX_OWNERS
