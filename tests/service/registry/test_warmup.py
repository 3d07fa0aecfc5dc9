"""What the warm-up measures, with a clock of the test's own, and what the cost model makes of it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from bundle.loading import Bundle
from service.app import create_app
from service.engine.costs import Costs
from service.engine.runtime import HostStates, StepInputs
from service.registry.warmup import ENOUGH_S, SOON_S, warm_up
from service.runtimes.sandbox import Sandbox
from service.settings import Settings
from tests.conftest import SHIPPED, ToyRuntime
from tests.service.conftest import wait_until_loaded


class Timed(ToyRuntime):
    """A step takes as long as `seconds(rows, how many steps there were)` says."""

    def __init__(self, seconds: Callable[[int, int], float]) -> None:
        super().__init__()
        self.seconds, self.now, self.sizes = seconds, 0.0, list[int]()

    def step(self, inputs: StepInputs) -> tuple[HostStates, HostStates]:
        self.now += self.seconds(len(inputs.x), len(self.sizes))
        self.sizes.append(len(inputs.x))
        return super().step(inputs)


def measure(bundle: Bundle, runtime: Timed, max_batch: int = 16) -> dict[int, float]:
    return warm_up(runtime, bundle, max_batch, clock=lambda: runtime.now)


def test_a_fast_model_is_measured_at_every_size(toy: Bundle) -> None:
    runtime = Timed(lambda rows, _: 0.001 + 0.002 * rows)
    curve = measure(toy, runtime, max_batch=12)
    assert curve == pytest.approx({rows: 0.001 + 0.002 * rows for rows in (1, 2, 4, 8, 12)})
    assert [runtime.sizes.count(rows) for rows in curve] == [16, 8, 4, 4, 4]


def test_the_first_step_of_a_size_does_not_count_unless_it_is_the_only_one(toy: Bundle) -> None:
    first = Timed(lambda rows, before: 0.5 if before == 0 else 0.01)
    assert measure(toy, first, max_batch=1) == pytest.approx({1: 0.01})
    only = Timed(lambda rows, before: 3.0)
    assert measure(toy, only, max_batch=1) == pytest.approx({1: 3.0})


@pytest.mark.parametrize("row_s", [0.05, 0.12, 0.3, 1.0, 7.0])
def test_a_large_model_is_measured_soon_and_no_size_that_was_not_measured_is_chosen(toy: Bundle, row_s: float) -> None:
    def seconds(rows: int, _: int = 0) -> float:
        return row_s * rows**0.9  # a larger batch is a little cheaper a row

    runtime = Timed(seconds)
    curve = measure(toy, runtime)
    assert all(runtime.sizes.count(rows) == 2 for rows in curve if SOON_S <= seconds(rows) < ENOUGH_S)
    assert runtime.now <= sum(SOON_S + 2 * seconds(rows) for rows in curve)
    assert max(curve) == 16 or seconds(max(curve)) >= ENOUGH_S
    costs = Costs()
    costs.set("toy", curve)
    assert costs.efficient_batch_size("toy", 16) <= max(curve)
    assert all(costs.seconds("toy", rows) >= 0.999 * seconds(rows) for rows in (*curve, 16, 32))


def test_no_batch_is_larger_than_the_model_was_tried_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(SHIPPED, tmp_path / "ddim")
    monkeypatch.setattr(Sandbox, "check", lambda sandbox, bundle, rows: 2)
    with TestClient(create_app(Settings(bundles=tmp_path, max_batch=16))) as client:
        wait_until_loaded(client)
        app: Any = client.app
        costs = app.state.service.engine.scheduler.costs
        model = app.state.service.models.served()["ddim"].digest
        assert costs.seconds(model, 16) == pytest.approx(8 * costs.seconds(model, 2))
        assert costs.efficient_batch_size(model, 16) <= 2
