"""Trains in children that kill themselves, and goes on: `python -m tests.models.killed_training DATA FOLDER`.

FOLDER gets `unbroken`, and for each of DEATHS moments I `I.killed`, as the kill left it, and `I`, where it went on.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from models import atomic, checkpoint, pictures, training_loop, training_state
from models.train import Settings
from models.training_loop import Training
from tests.models.tiny_training import settings

DEATHS = 20
TRACED = {module.__file__ for module in (atomic, checkpoint, training_loop, training_state)}


def in_child(work: Callable[[], None]) -> int:
    """Does the work in a child; the signal that ended it, or 0."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def run(options: Settings) -> None:
    Training(options).run()


def on_line(count: Callable[[], None]) -> Any:
    """A trace function that calls `count` before each line of TRACED."""

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename not in TRACED:
            return None
        if event == "line":
            count()
        return trace

    return trace


def run_and_die(options: Settings, at_line: int) -> None:
    lines = 0

    def count() -> None:
        nonlocal lines
        lines += 1
        if lines == at_line:
            os.kill(os.getpid(), signal.SIGKILL)

    training = Training(options)
    sys.settrace(on_line(count))
    training.run()


def lines_of(options: Settings, report: Path) -> None:
    lines = 0

    def count() -> None:
        nonlocal lines
        lines += 1

    training = Training(options)
    sys.settrace(on_line(count))
    training.run()
    sys.settrace(None)
    report.write_text(str(lines))


def main(data: Path, folder: Path) -> None:
    def options(output: str) -> Settings:
        return settings(data, folder / output, images=20, save_every=2)

    torch.set_num_threads(1)
    pictures.draw_history = pictures.draw_samples = lambda *_: None  # they take most of the time
    Training(options("warm"))  # imports what every child would, and computes nothing that could not be forked
    in_child(lambda: lines_of(options("unbroken"), folder / "lines"))
    lines = int((folder / "lines").read_text())
    moments = np.random.default_rng(0).choice(np.arange(1, lines), DEATHS, replace=False)
    for i, moment in enumerate(moments):
        (folder / f"{i}").mkdir()  # it may die before it makes it
        assert in_child(lambda: run_and_die(options(f"{i}"), moment)) == signal.SIGKILL  # noqa: B023  # ends in this turn
        shutil.copytree(folder / f"{i}", folder / f"{i}.killed")
        in_child(lambda: run(options(f"{i}")))  # noqa: B023


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
