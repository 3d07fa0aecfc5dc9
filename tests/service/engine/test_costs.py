"""The cost model by itself."""

import math

import pytest

from service.engine.costs import WEIGHT, Costs


def costs_of(curve: dict[int, float]) -> Costs:
    costs = Costs()
    costs.set("a", curve)
    return costs


def test_costs_are_linear_between_measured_sizes_and_proportional_beyond() -> None:
    costs = costs_of({1: 1.0, 4: 2.5, 8: 4.0})
    assert [costs.seconds("a", n) for n in (1, 2, 4, 6, 8, 16)] == [1.0, 1.5, 2.5, 3.25, 4.0, 8.0]


def test_a_batch_is_as_large_as_improves_throughput_and_no_larger() -> None:
    assert costs_of({1: 1.0, 16: 16.0}).efficient_batch_size("a", 16) == 1  # a processor: nothing to gain
    assert costs_of({1: 1.0, 16: 1.0}).efficient_batch_size("a", 16) == 16  # rows are free
    assert costs_of({1: 1.0, 4: 1.0, 16: 4.0}).efficient_batch_size("a", 16) == 4
    assert Costs().efficient_batch_size("a", 16) == 16


def test_a_stall_moves_the_estimate_little_and_a_lasting_change_is_followed() -> None:
    costs = costs_of({1: 1.0, 4: 4.0})
    costs.observe("a", 4, 4000.0)
    assert costs.seconds("a", 4) == pytest.approx(4 * math.exp(WEIGHT))
    for _ in range(200):
        costs.observe("a", 4, 8.0)
    assert costs.seconds("a", 4) == pytest.approx(8.0, rel=0.01)
    assert 1.0 < costs.seconds("a", 1) < 2.0 * 4000**WEIGHT  # sizes mostly slow down together


def test_a_measurement_between_two_knots_moves_both_by_how_near_they_are() -> None:
    costs = costs_of({1: 1.0, 5: 5.0})
    for _ in range(500):
        costs.observe("a", 4, 6.0)
    assert costs.seconds("a", 4) == pytest.approx(6.0, rel=0.01)
    assert costs.seconds("a", 5) / 5 > costs.seconds("a", 1)


def test_a_machine_that_is_slower_at_every_size_keeps_its_efficient_batch() -> None:
    costs = costs_of({1: 1.0, 4: 2.0, 8: 4.4})
    for _ in range(100):
        costs.observe("a", costs.efficient_batch_size("a", 8), 3.0)
    assert costs.efficient_batch_size("a", 8) == 4
    assert costs.seconds("a", 4) == pytest.approx(3.0, rel=0.01)
    assert costs.seconds("a", 8) == pytest.approx(1.5 * 4.4, rel=0.1)


def test_an_unmeasured_model_takes_its_first_measurement() -> None:
    costs = Costs()
    costs.observe("b", 4, 2.0)
    assert costs.seconds("b", 4) == pytest.approx(2.0)
