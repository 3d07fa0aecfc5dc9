"""A server of this checkout in a process of its own, for what measures and tests it."""

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
def serving(bundles: Path, *options: str) -> Iterator[str]:
    """The URL of a service over `bundles`, ready; it is stopped on leaving. `options` are more of `./run serve`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "service",
        "--port",
        str(port),
        "--bundles",
        str(bundles),
        "--log-level",
        "warning",
        *options,
    ]
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, cwd=REPOSITORY) as process:
        try:
            wait_until_ready(url, process)
            yield url
        finally:
            process.terminate()


def wait_until_ready(url: str, process: "subprocess.Popen[bytes]") -> None:
    """Returns when `/readyz` says so. Raises SystemExit if the service ends before it, or takes too long."""
    for _ in range(START_TIMEOUT_S * 10):
        if process.poll() is not None:
            raise SystemExit(f"the service ended with {process.returncode}")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz").is_success:
                return
        time.sleep(0.1)
    raise SystemExit(f"the service was not ready after {START_TIMEOUT_S} s")
