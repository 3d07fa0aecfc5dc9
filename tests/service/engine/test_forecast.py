"""What is predicted for a request, against what it then takes in virtual time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine import forecast as forecasting
from service.engine.admission import MAX_PROMISED_UTILIZATION, Admission
from service.engine.forecast import Forecast
from service.engine.jobs import Job
from service.engine.scheduler import Scheduler
from service.engine.simulate import CURVE, CURVES, MIX, WORKERS, Arrival, costs, job, simulate, trace

MAX_BATCH = 16


class Foretelling(Admission):
    """Notes when the last request would end, as it comes."""

    end_s = 0.0

    def admit(self, job: Job, now: float) -> None:
        forecast = forecast_of(self.scheduler, now)
        self.end_s = forecast.wait_s(job.model, job.steps) + forecast.alone_s(job.model, job.steps)
        super().admit(job, now)


def scheduler(workers: int = WORKERS) -> Scheduler:
    return Scheduler(MAX_BATCH, costs(CURVES), workers)


def forecast_of(scheduler: Scheduler, now: float = 0.0, promised: dict[str, float] | None = None) -> Forecast:
    return Forecast(scheduler, promised or {}, CURVES, now)


def error(arrivals: list[Arrival], method: str, steps: int) -> float:
    """How wrong the predicted end of a request after these is, as a share of the time that it takes."""
    at_s = arrivals[-1].at_s + 1e-4
    request = job(method, steps, at_s=at_s)
    admission = Foretelling(scheduler(), 10_000, 1000.0)
    simulate([*arrivals, Arrival(at_s, request)], admission.scheduler, admission)
    took_s = request.finished_s - at_s
    return (admission.end_s - took_s) / took_s


def errors(load: float, deadlines: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Of requests of each kind of the mix, at 20 moments of traces with this load."""
    moments = [(trace(load, 40 + 2 * seed, seed, deadlines), MIX[seed % len(MIX)]) for seed in range(20)]
    return np.array([error(arrivals, kind.method, kind.steps) for arrivals, kind in moments])


@given(st.sampled_from(sorted(CURVES)), st.integers(1, 1000), st.integers(1, 8))
def test_an_idle_machine_makes_nobody_wait(method: str, steps: int, workers: int) -> None:
    forecast = forecast_of(scheduler(workers))
    assert forecast.wait_s(method, steps) == 0
    assert forecast.alone_s(method, steps) == pytest.approx(steps * CURVE[1])
    assert forecast.utilization == 0


def test_a_worker_that_is_free_makes_nobody_wait() -> None:
    busy = scheduler(workers=2)
    busy.add(job("vdm", 50))
    busy.next_batch(0.0)
    assert forecast_of(busy).wait_s("ddim", 20) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("deadlines", [0.0, 0.5])
@pytest.mark.parametrize(("load", "half", "most"), [(0.8, 0.1, 0.2), (1.5, 0.15, 0.7)])
def test_a_request_ends_when_it_was_predicted_to(load: float, half: float, most: float, deadlines: float) -> None:
    """Half of the predictions are within one share of the time that the request took, nine in ten within another."""
    off = errors(load, deadlines)
    assert abs(np.median(off)) <= 0.05
    assert np.percentile(abs(off), 50) <= half
    assert np.percentile(abs(off), 90) <= most


@pytest.mark.parametrize(("placed", "most"), [(32, 0.25), (forecasting.MAX_PLACED, 0.05)])
def test_the_last_of_a_long_queue_is_predicted(monkeypatch: pytest.MonkeyPatch, placed: int, most: float) -> None:
    monkeypatch.setattr(forecasting, "MAX_PLACED", placed)
    arrivals = [Arrival(0.0, job("ddim", 4)) for _ in range(100)]
    assert abs(error(arrivals, "ddim", 4)) < most


def test_what_is_predicted_of_a_full_queue_takes_a_bounded_number_of_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    queue, taken = scheduler(), 0
    take = forecasting.Phases._take

    def counting(phases: forecasting.Phases, model: str) -> list[tuple[forecasting.Remainder, int]]:
        nonlocal taken
        batch = take(phases, model)
        taken += len(batch)
        return batch

    monkeypatch.setattr(forecasting.Phases, "_take", counting)
    for number in range(4096):
        queue.add(job(MIX[number % len(MIX)].method, 50))
    assert forecast_of(queue).wait_s("ddim", 50) > 100
    assert taken < 3 * forecasting.MAX_PLACED


def test_what_is_spare_is_what_full_batches_would_add() -> None:
    queue = scheduler()
    full = queue.efficient_batch_size("ddim")
    capacity = WORKERS * full / queue.costs.seconds("ddim", full)
    assert forecast_of(queue).spare_steps_per_s("ddim") == pytest.approx(capacity)
    queue.add(job("ddim", 20))
    one = 1 / CURVE[1]
    assert forecast_of(queue).spare_steps_per_s("ddim") == pytest.approx(capacity - one)
    queue.add(job("vdm", 20))
    assert forecast_of(queue).spare_steps_per_s("vdm") == pytest.approx(capacity - 2 * one)
    queue.add(job("ddim", 20, n=WORKERS * full - 1))
    assert forecast_of(queue).spare_steps_per_s("ddim") == 0
    assert forecast_of(queue).utilization == 1


def test_what_is_promised_is_told_by_model_and_ends_with_the_jobs() -> None:
    queue = scheduler()
    admission = Admission(queue, 4096, 60.0)
    assert sum(admission.promised_utilization(0.0).values()) == 0
    simulate(trace(3.0, 60, deadlines=1.0)[:30], queue, admission)
    assert sum(admission.promised_utilization(0.0).values()) == 0
    admission.admit(job("ddim", 100, deadline_s=1.0), 0.0)
    admission.admit(job("vdm", 100), 0.0)
    promised = forecast_of(queue, promised=admission.promised_utilization(0.0)).promised
    assert promised["ddim"] == pytest.approx(100 * CURVE[1] / WORKERS)
    assert promised["vdm"] == 0
    assert promised["ddim"] <= MAX_PROMISED_UTILIZATION
