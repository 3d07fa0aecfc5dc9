"""Starts the service of this checkout in a process of its own, for measurements and tests."""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

REPOSITORY = Path(__file__).parent.parent
START_TIMEOUT_S = 120


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
    """Returns when `/readyz` answers 200. Raises SystemExit if the service ends before, or is not ready in time."""
    for _ in range(START_TIMEOUT_S * 10):
        if process.poll() is not None:
            raise SystemExit(f"the service ended with {process.returncode}")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz").is_success:
                return
        time.sleep(0.1)
    raise SystemExit(f"the service was not ready after {START_TIMEOUT_S} s")
