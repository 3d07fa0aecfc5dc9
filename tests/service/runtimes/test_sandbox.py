"""A graph runs in a process within limits: whatever breaks one is refused, and nothing of it goes on."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bundle.files import BundleError
from bundle.graph import Graph
from bundle.loading import load
from service.runtimes import trial
from service.runtimes.sandbox import Sandbox
from tests.service.registry.graphs import huge, identity, model, slow, write

LONG_S, LARGE_BYTES = 600.0, 4 * 2**30


def test_a_graph_that_keeps_the_limits_is_allowed(tmp_path: Path) -> None:
    assert Sandbox(LONG_S, LARGE_BYTES).check(load(write(tmp_path / "good", model(identity()))), rows=16) == 16


@pytest.mark.parametrize(("few_s", "rows", "tried"), [(0.9, 16, [2, 16]), (1.1, 16, [2]), (0.9, 2, [2]), (1.1, 1, [1])])
def test_a_graph_whose_first_run_takes_long_is_not_run_for_more_rows(
    few_s: float, rows: int, tried: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    now, ran = [0.0], list[int]()

    class Session:
        def get_inputs(self) -> list[Any]:
            return [SimpleNamespace(name="x", type="tensor(float)", shape=["rows", 1, 4])]

        def run(self, outputs: None, inputs: dict[str, Any]) -> None:
            ran.append(len(inputs["x"]))
            now[0] += few_s

    monkeypatch.setattr(trial, "open_session", lambda graph, threads: Session())
    graph = Graph(model(identity()).SerializeToString())
    assert trial.run_once(graph, rows, clock=lambda: now[0]) == tried[-1]
    assert ran == tried


def test_a_graph_that_takes_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"^slow/step\.onnx: (it does not end within 1 s|running it ends a process)"):
        Sandbox(1.0, LARGE_BYTES).check(load(write(tmp_path / "slow", slow())), rows=1)


def test_a_graph_that_takes_too_much_memory_is_refused_and_one_that_takes_less_is_not(tmp_path: Path) -> None:
    bundle = load(write(tmp_path / "large", huge(2**27)))  # numbers of 4 bytes
    Sandbox(LONG_S, LARGE_BYTES).check(bundle, rows=1)
    with pytest.raises(BundleError, match=r"^large/step\.onnx: "):
        Sandbox(LONG_S, 2**28).check(bundle, rows=1)


def test_a_lower_limit_of_the_machine_stays() -> None:
    content = model(identity()).SerializeToString()
    limits = [os.getpid(), 1, 600, 2**40]
    script = [sys.executable, "-P", trial.__file__, *map(str, (len(content), "", 0, *limits))]
    command = f"ulimit -t 500; ulimit -v 8388608; exec {shlex.join(script)}"
    assert subprocess.check_output(["sh", "-c", command], input=content) == b"1"  # to a pipe: it may write no file


def test_a_closed_sandbox_runs_nothing(tmp_path: Path) -> None:
    sandbox = Sandbox(LONG_S, LARGE_BYTES)
    sandbox.close()
    with pytest.raises(BundleError, match="ends a process by SIGKILL"):
        sandbox.check(load(write(tmp_path / "slow", slow())), rows=1)
