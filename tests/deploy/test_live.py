"""Dashboards and alerts against a real Prometheus that scrapes a real server."""

import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from deploy.grafana.dashboards import DASHBOARDS
from service.engine.jobs import Batch
from tests.conftest import REPOSITORY, write_bundle
from tests.deploy.conftest import in_this_process, prometheus, query, wait_until

VARIABLES = {"$__rate_interval": "1m", "$method": ".*", "$quality": "class_agreement"}
EXPRESSIONS = {
    (board["title"], panel["title"], target["legendFormat"]): target["expr"]
    for board in DASHBOARDS
    for panel in board["panels"]
    for target in panel.get("targets", [])
}


@contextmanager
def locusts(url: str) -> Iterator[None]:
    """Every kind of user, asking for more than the server can do."""
    command = [sys.executable, "-m", "locust", "--locustfile", "loadtests/locustfile.py", "--headless", "--host", url]
    command += ["--users", "80", "--run-time", "1h", "--burst", "1", "--batch", "5", "--only-summary"]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def has_data(client: httpx.Client, expression: str) -> bool:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return any(math.isfinite(float(sample["value"][1])) for sample in query(client, expression))


def test_every_query_of_every_dashboard_has_data(service: str, tmp_path: Path) -> None:
    missing = set(EXPRESSIONS)
    with prometheus(tmp_path, service) as client, locusts(service):

        def all_have_data() -> bool:
            hopeless = {"method": "vdm", "steps": 1000, "n": 8, "deadline_ms": 1}
            assert httpx.post(f"{service}/generate", json=hopeless).status_code == 429
            missing.difference_update({key for key in missing if has_data(client, EXPRESSIONS[key])})
            return not missing

        try:
            wait_until(all_have_data)
        except AssertionError as error:
            raise AssertionError(f"no data: {sorted(missing)}") from error


def test_a_killed_engine_fires_the_stall_alert_and_nothing_else(tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundles" / "toy")

    def broken(now: float) -> Batch | None:
        raise RuntimeError("a bug of ours")

    def firing() -> set[str]:
        return {sample["metric"]["alertname"] for sample in query(client, 'ALERTS{alertstate="firing"}')}

    with in_this_process(tmp_path / "bundles") as (url, app), prometheus(tmp_path, url, patience=False) as client:
        assert httpx.post(f"{url}/generate", json={"method": "toy"}).is_success
        wait_until(lambda: query(client, "trilemma_engine_up == 1"))
        assert not firing()
        app.state.service.engine.scheduler.next_batch = broken
        assert httpx.post(f"{url}/generate", json={"method": "toy"}).status_code == 500
        assert wait_until(firing) == {"EngineStalled"}
