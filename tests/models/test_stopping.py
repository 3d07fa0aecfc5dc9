"""A training that is asked to stop, or whose numbers are not finite, leaves a sound checkpoint and says the way on."""

import os
import signal
from pathlib import Path

import pytest

from models.failures import Interrupted, TrainError
from models.training_loop import Training
from tests.models.tiny_training import BATCHES, assert_consistent, at_batch, contents, settings, state_of

pytestmark = pytest.mark.usefixtures("one_thread")

# --- signals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_after_the_batch_under_way(
    images: Path, tmp_path: Path, unbroken: Path, number: signal.Signals
) -> None:
    output = tmp_path / "stopped"
    training = at_batch(Training(settings(images, output)), 5, lambda: os.kill(os.getpid(), number))
    before = signal.getsignal(number)
    with pytest.raises(
        Interrupted, match=rf"^stopped: {output} has batch 6 of 12; the same command goes on$"
    ) as caught:
        training.run()
    assert caught.value.exit_code == 128 + number
    assert signal.getsignal(number) == before
    assert_consistent(output)
    assert int(state_of(output)["batches_done"]) == 6
    Training(settings(images, output)).run()
    assert contents(output) == contents(unbroken)


def test_a_second_interrupt_stops_at_once_and_leaves_what_was_saved(images: Path, tmp_path: Path) -> None:
    training = Training(settings(images, tmp_path / "run"))
    twice = at_batch(training, 6, lambda: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)])
    with pytest.raises(KeyboardInterrupt):
        twice.run()
    assert_consistent(tmp_path / "run")
    assert int(state_of(tmp_path / "run")["batches_done"]) == 4


def test_an_ignored_signal_stays_ignored(images: Path, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        at_batch(Training(settings(images, tmp_path)), 5, lambda: os.kill(os.getpid(), signal.SIGHUP)).run()
    finally:
        signal.signal(signal.SIGHUP, before)
    assert int(state_of(tmp_path)["batches_done"]) == BATCHES


# --- what is not finite --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "keeps"), [(6, "keeps batch 4, whole"), (2, "nothing is saved yet")])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run(
    images: Path, tmp_path: Path, batch: int, keeps: str, value: float
) -> None:
    output = tmp_path / "run"
    training = Training(settings(images, output))
    step = training.objective.step
    training.objective.step = lambda *of: value if training.state.batches_done == batch else step(*of)  # type: ignore[method-assign]
    with pytest.raises(TrainError) as caught:
        training.run()
    assert f"batch {batch + 1} has a loss of {value}" in str(caught.value)
    assert keeps in str(caught.value)
    assert "lower --learning-rate" in str(caught.value)
    if batch > 4:
        assert f"--start {output}" in str(caught.value)
        assert_consistent(output)


@pytest.mark.parametrize("part", ["network", "ema", "optimizer"])
def test_weights_that_are_not_finite_are_not_saved(images: Path, tmp_path: Path, part: str) -> None:
    training = Training(settings(images, tmp_path))

    def spoil() -> None:
        if part == "network":
            next(training.objective.modules["network"].parameters()).data[0] = float("nan")
        elif part == "ema":
            next(iter(training.state.ema.values()))[0] = float("inf")
        else:
            (optimizer,) = training.objective.optimizers.values()
            next(iter(optimizer.state.values()))["exp_avg"][0] = float("nan")

    step = training.objective.step
    training.objective.step = lambda *of: (step(*of), training.state.batches_done == 7 and spoil())[0]  # type: ignore[method-assign]
    with pytest.raises(TrainError, match=r"^after batch 8, .* is not finite: stopped; .* keeps batch 4, whole"):
        training.run()
    assert_consistent(tmp_path)
    assert int(state_of(tmp_path)["batches_done"]) == 4
