"""The servers under comparison, each started fresh, and asked in its own way."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from loadtests.load.traces import Call
from loadtests.peers.pipeline import Tuning

ROOT = Path(__file__).parent.parent.parent
STOP_S = 20


@dataclass(frozen=True)
class Server:
    name: str
    module: str = ""  # none: ours
    wrapped: bool = False  # takes a list of requests
    deadlines: bool = False  # is told by when each answer is wanted

    def command(self, port: int) -> list[str]:
        if self.module:
            return [sys.executable, "-m", f"loadtests.peers.{self.module}", str(port)]
        return [str(ROOT / "run"), "serve", "--port", str(port), "--log-level", "warning", "--cache-bytes", "0"]

    def body(self, call: Call, good_s: float) -> dict[str, Any]:
        asked: dict[str, Any] = {"method": call.kind.method, "steps": call.kind.steps, "seed": call.seed}
        if self.deadlines:
            asked["deadline_ms"] = int(1000 * good_s)
        return {"asked": [asked]} if self.wrapped else asked


UNTOLD = Server("Trilemma, no deadlines")
SERVERS = [
    Server("Trilemma", deadlines=True),
    UNTOLD,
    Server("FastAPI, a lock", "plain"),
    Server("LitServe", "lit"),
    Server("BentoML", "bento", wrapped=True),
    Server("Ray Serve", "rays"),
]


@contextmanager
def running(server: Server, tuning: Tuning) -> Iterator[tuple[str, psutil.Process]]:
    """The URL that it will answer at, and its first process; no process of it is left afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    quiet = {"BENTOML_DO_NOT_TRACK": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    process = psutil.Popen(
        server.command(port),
        env={**os.environ, **tuning.environment(), **quiet},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}", process
    finally:
        family = [process, *process.children(recursive=True)]
        process.terminate()
        for left in psutil.wait_procs(family, STOP_S)[1]:
            left.kill()
        psutil.wait_procs(family, STOP_S)


def memory_mb(process: psutil.Process) -> float:
    """Of all its processes: what each holds for itself, and its share of the rest."""
    return sum(each.memory_full_info().pss for each in (process, *process.children(recursive=True))) / 2**20
