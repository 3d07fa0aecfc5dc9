"""A real Prometheus over a real server, both processes of their own."""

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
import yaml

from loadtests.server_process import free_port, is_loaded
from service.app import create_app
from service.http.server import options
from service.registry.registry import OpenRuntime
from service.settings import Settings
from tests.conftest import REPOSITORY, WITHIN_S, ToyRuntime, write_bundle
from tests.service.conftest import Held

DEPLOY = REPOSITORY / "deploy"
UNPACKED = REPOSITORY / ".cache" / "debian"


def tool(name: str) -> str:
    """`prometheus` or `promtool`: the machine's own, else Debian's, unpacked into .cache without installing it."""
    if installed := shutil.which(name):
        return installed
    binary = UNPACKED / "usr" / "bin" / name
    if not binary.exists():
        assert shutil.which("apt-get"), f"these tests need {name}: install Prometheus"
        UNPACKED.mkdir(parents=True, exist_ok=True)
        for command in (["apt-get", "-qq", "update"], ["apt-get", "-qq", "download", "prometheus"]):
            subprocess.run(command, cwd=UNPACKED, check=True)
        package = next(UNPACKED.glob("prometheus_*.deb"))
        subprocess.run(["dpkg", "-x", package, "."], cwd=UNPACKED, check=True)
    return str(binary)


def wait_until(holds: Callable[[], Any]) -> Any:
    """The result of `holds` once it is true; a refused connection counts as false."""
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        try:
            if result := holds():
                return result
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"not within {WITHIN_S} s")


@contextmanager
def running(
    command: list[str], ready: str, environment: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """The process, once `ready` answers and, where that is the service's, every bundle was tried."""

    def is_ready() -> bool:
        answer = httpx.get(ready)
        return answer.is_success and (not ready.endswith("/readyz") or is_loaded(answer))

    process = subprocess.Popen(command, cwd=REPOSITORY, env=environment)
    try:
        wait_until(lambda: process.poll() is not None or is_ready())
        assert process.poll() is None, command
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def holding(bundles: Path, **settings: Any) -> Iterator[tuple[str, Held]]:
    """The URL of a service of a toy that waits in its first step until it is let go, and its runtime."""
    write_bundle(bundles / "toy")
    runtime = Held()
    with in_this_process(bundles, runtime, **settings) as (url, _):
        yield url, runtime
        runtime.go.set()


@contextmanager
def in_this_process(bundles: Path, runtime: ToyRuntime | None = None, **settings: Any) -> Iterator[tuple[str, Any]]:
    """The URL of a server of toys in a thread, and its application."""
    with serving(bundles, lambda bundle, threads: runtime or ToyRuntime(), **settings) as served:
        yield served


@contextmanager
def serving(bundles: Path, open_runtime: OpenRuntime | None = None, **settings: Any) -> Iterator[tuple[str, Any]]:
    """The URL of a server in a thread, and its application; it runs the bundles' own graphs unless `open_runtime`."""
    chosen = Settings(bundles=bundles, port=(port := free_port()), **settings)
    app = create_app(chosen, open_runtime)
    server = uvicorn.Server(uvicorn.Config(app, port=port, **options(app.state.service.metrics, chosen)))
    thread = threading.Thread(target=server.run)
    thread.start()
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: is_loaded(httpx.get(f"{url}/readyz")))
        yield url, app
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    """The URL of the real server over the shipped bundles."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    # So short a queue fills quickly, and the dashboards have refusals to show.
    command = [sys.executable, "-m", "service", "--port", str(port), "--max-queued-images", "64", "--threads", "1"]
    with running([*command, "--log-level", "warning"], f"{url}/readyz"):
        yield url


@contextmanager
def prometheus(folder: Path, target: str, patience: bool = True) -> Iterator[httpx.Client]:
    """A Prometheus with the shipped configuration and rules, every second, of `target`; alerts fire at once without
    patience."""
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"] = [
        {**job, "static_configs": [{"targets": [target.removeprefix("http://")]}]}
        for job in config["scrape_configs"]
        if job["job_name"] == "trilemma"
    ]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    for name in config["rule_files"]:
        rules = yaml.safe_load((DEPLOY / "prometheus" / name).read_text())
        for rule in (rule for group in rules["groups"] for rule in group["rules"]):
            if "for" in rule and not patience:
                rule["for"] = "0s"
        (folder / name).write_text(yaml.safe_dump(rules))
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [
        tool("prometheus"),
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with running(command, f"{url}/-/ready"), httpx.Client(base_url=url) as client:
        yield client


def query(client: httpx.Client, expression: str) -> list[dict[str, Any]]:
    """An instant query's vector. Fails where Prometheus refuses the expression."""
    answer = client.get("/api/v1/query", params={"query": expression}).json()
    assert answer["status"] == "success", (expression, answer)
    result: list[dict[str, Any]] = answer["data"]["result"]
    return result
