"""The servers of the comparison: how to start each one, and the body of its requests."""

import os
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
from loadtests.server_process import free_port

ROOT = Path(__file__).parent.parent.parent
STOP_S = 20


@dataclass(frozen=True)
class Server:
    """A server of the comparison."""

    name: str
    module: str = ""  # empty: our server
    wrapped: bool = False  # takes a list of requests
    deadlines: bool = False  # gets a deadline with each request

    def command(self, port: int) -> list[str]:
        """The command that serves on this port."""
        if self.module:
            return [sys.executable, "-m", f"loadtests.peers.{self.module}", str(port)]
        return [str(ROOT / "run"), "serve", "--port", str(port), "--log-level", "warning", "--cache-bytes", "0"]

    def body(self, call: Call, good_s: float) -> dict[str, Any]:
        """The JSON of a call, whose deadline is `good_s`."""
        request: dict[str, Any] = {"method": call.kind.method, "steps": call.kind.steps, "seed": call.seed}
        if self.deadlines:
            request["deadline_ms"] = int(1000 * good_s)
        return {"requests": [request]} if self.wrapped else request


NO_DEADLINES = Server("Trilemma, no deadlines")
SERVERS = [
    Server("Trilemma", deadlines=True),
    NO_DEADLINES,
    Server("FastAPI, a lock", "plain"),
    Server("LitServe", "lit"),
    Server("BentoML", "bento", wrapped=True),
    Server("Ray Serve", "rays"),
]


@contextmanager
def running(server: Server, tuning: Tuning) -> Iterator[tuple[str, psutil.Process]]:
    """Starts the server; gives its URL and its first process. Ends all its processes on leaving."""
    port = free_port()
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
        for survivor in psutil.wait_procs(family, STOP_S)[1]:
            survivor.kill()
        psutil.wait_procs(family, STOP_S)


def memory_mb(process: psutil.Process) -> float:
    """The proportional set size (PSS) of the process and all its children, in MiB."""
    return sum(part.memory_full_info().pss for part in (process, *process.children(recursive=True))) / 2**20
