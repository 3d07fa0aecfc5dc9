"""How many replicas utilisation and predicted wait ask for."""

from types import SimpleNamespace

import pytest

from cluster.scaling import replicas, wanted


@pytest.mark.parametrize(
    ("now", "waits_s", "utilizations", "expected"),
    [
        (2, [0.1, 0.1], [0.7, 0.7], 2),  # at the target
        (2, [0.1, 0.1], [0.9, 0.9], 3),  # busier
        (2, [0.0, 0.0], [0.1, 0.2], 1),  # idle
        (3, [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], 1),  # at least one
        (2, [9.0, 9.0], [0.5, 0.5], 3),  # long waits, however they come about
        (2, [9.0, 9.0], [1.0], 2),  # one is new and has said nothing
    ],
)
def test_replicas_follow_utilisation_and_wait(
    now: int, waits_s: list[float], utilizations: list[float], expected: int
) -> None:
    assert wanted(now, waits_s, utilizations) == expected
    measured = {
        "wait_s": dict(enumerate(waits_s)),
        "utilization": dict(enumerate(utilizations)),
    }
    context = SimpleNamespace(current_num_replicas=now, aggregated_metrics=measured)
    assert replicas(context) == (expected, {})  # type: ignore[arg-type]
