"""The open-loop traces: the mix, the rates, the bursts."""

import numpy as np
import pytest

from loadtests.load.traces import BURST, BURST_S, CALM_S, bursts, classes, poisson


def test_the_mix_is_of_the_models_that_are_served_and_of_others_where_one_is_not() -> None:
    everything = classes(["ddgan", "ddim", "latent", "vdm"])
    assert [(kind.name, kind.share) for kind in everything] == [
        ("ddgan 4", 0.4),
        ("ddim 20", 0.3),
        ("vdm 50", 0.2),
        ("ddim 250", 0.1),
    ]
    assert [kind.name for kind in classes(["ddim", "latent"])] == ["latent 4", "ddim 20", "ddim 50", "ddim 250"]
    assert {kind.method for kind in classes(["latent"])} == {"latent"}


def test_calls_come_at_the_rate_by_class_shares_and_with_different_seeds() -> None:
    kinds = classes(["ddgan", "ddim", "vdm"])
    calls = poisson(kinds, 100.0, 100.0, seed=3)
    assert len(calls) == pytest.approx(10_000, rel=0.05)
    assert [call.at_s for call in calls] == sorted(call.at_s for call in calls)
    for kind in kinds:
        assert sum(call.kind == kind for call in calls) / len(calls) == pytest.approx(kind.share, abs=0.02)
    assert len({call.seed for call in calls}) == len(calls)
    gaps = np.diff([call.at_s for call in calls])
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # exponential
    assert poisson(kinds, 100.0, 1.0, seed=3) == poisson(kinds, 100.0, 1.0, seed=3)


def test_bursts_have_the_same_mean_and_a_higher_rate_at_the_start_of_every_period() -> None:
    calls = bursts(classes(["ddim"]), 100.0, 100.0, seed=4)
    assert len(calls) == pytest.approx(10_000, rel=0.05)
    period_s = BURST_S + CALM_S
    in_burst = sum(call.at_s % period_s < BURST_S for call in calls)
    assert in_burst / (100.0 / period_s * BURST_S) == pytest.approx(BURST * 100.0, rel=0.1)
