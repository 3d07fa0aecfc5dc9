"""Starts the service of this checkout in a process of its own, for measurements and tests."""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from service.registry.registry import NOT_YET

REPOSITORY = Path(__file__).parent.parent
START_TIMEOUT_S = 600  # far longer than it takes: it ends what hangs, also on a slow machine


@contextlib.contextmanager
def serving(bundles: Path, *options: str, module: str = "service") -> Iterator[str]:
    """The URL of a ready service over `bundles`; it is stopped on leaving. `options` are more of `./run serve`.

    `module` stands in for the service's own.
    """
    port = free_port()
    own = ["--port", str(port), "--bundles", str(bundles), "--log-level", "warning"]
    command = [sys.executable, "-m", module, *own, *options]
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, cwd=REPOSITORY) as process:
        try:
            wait_until_ready(url, process)
            yield url
        finally:
            process.terminate()


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_ready(url: str, process: "subprocess.Popen[bytes]") -> None:
    """Returns when `/readyz` answers 200, and nothing is tried any more.

    Raises SystemExit if the service ends before, or is not ready in time.
    """
    for _ in range(START_TIMEOUT_S * 10):
        if process.poll() is not None:
            raise SystemExit(f"the service ended with {process.returncode}")
        with contextlib.suppress(httpx.TransportError):
            if (answer := httpx.get(f"{url}/readyz")).is_success and is_loaded(answer):
                return
        time.sleep(0.1)
    raise SystemExit(f"the service was not ready after {START_TIMEOUT_S} s")


def is_loaded(answer: httpx.Response) -> bool:
    """Whether every bundle was tried, by an answer of `/readyz`: it is ready with the first that can be served."""
    body = answer.json()
    return body["status"] != "starting" and NOT_YET not in body["failed_bundles"].values()
