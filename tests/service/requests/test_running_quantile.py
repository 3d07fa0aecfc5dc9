import numpy as np
import pytest

from service.requests.running_quantile import RunningQuantile


def test_nine_of_ten_values_stay_below_it_before_and_after_a_change() -> None:
    quantile, rng = RunningQuantile(1e-3), np.random.default_rng(0)
    for mean in (0.01, 0.001):
        values = rng.exponential(mean, 4000).tolist()
        for value in values:
            quantile.observe(value)
        assert np.mean([value < quantile.seconds for value in values]) == pytest.approx(0.9, abs=0.05)
