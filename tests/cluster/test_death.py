"""A replica is killed while it has a request: another answers it, once, with the same bytes."""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.fleet import Fleet
from cluster.router_metrics import RouterMetrics
from loadtests.server_process import free_port
from tests.cluster.conftest import count, routing
from tests.conftest import PATIENT, REPOSITORY
from tests.deploy.conftest import running, wait_until

LONG = {"method": "latent", "steps": 1000, "seed": 7, "class_label": 3, "n": 4}


class Pair:
    """A router over two services of the latent model, each a process."""

    def __init__(self, url: str, fleet: Fleet, metrics: RouterMetrics, processes: dict[str, Any]) -> None:
        self.url, self.fleet, self.metrics, self.processes = url, fleet, metrics, processes

    def busy(self) -> str:
        """The id of the replica that is computing."""

        def id() -> str | None:
            gauges = {id: httpx.get(f"{r.url}/metrics").text for id, r in self.fleet.replicas.items()}
            return next((id for id, text in gauges.items() if "trilemma_active_images 4.0" in text), None)

        return str(wait_until(id))

    def kill(self, id: str) -> None:
        self.processes[id].kill()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    (tmp_path / "latent").mkdir()
    for file in (REPOSITORY / "bundles" / "latent").iterdir():
        (tmp_path / "latent" / file.name).write_bytes(file.read_bytes())
    with ExitStack() as stack:
        ports = [free_port(), free_port()]
        processes: dict[str, subprocess.Popen[bytes]] = {}
        for id, port in enumerate(ports):
            command = [sys.executable, "-m", "service", "--port", str(port), "--bundles", str(tmp_path)]
            command += ["--workers", "1", "--log-level", "error", *PATIENT]
            processes[str(id)] = stack.enter_context(running(command, f"http://127.0.0.1:{port}/readyz"))
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        url, fleet, metrics = stack.enter_context(routing(*urls))
        yield Pair(url, fleet, metrics, processes)


def npy(url: str, **fields: Any) -> httpx.Response:
    return httpx.post(f"{url}/generate", json=fields, headers={"Accept": "application/x-npy"}, timeout=300)


def events(url: str, fields: dict[str, Any], pair: Pair) -> list[tuple[str, dict[str, Any]]]:
    """Of a stream whose replica is killed after the first step."""
    received, killed = [], False
    headers = {"Accept": "text/event-stream"}
    with httpx.stream("POST", f"{url}/generate", json=fields, headers=headers, timeout=300) as answer:
        name = ""
        for line in answer.iter_lines():
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                received.append((name, json.loads(value)))
                if name == "step" and not killed:
                    killed = True
                    pair.kill(pair.busy())
    return received


def test_a_request_whose_replica_is_killed_is_answered_by_another_with_the_same_bytes(pair: Pair) -> None:
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(npy, pair.url, **LONG, deadline_ms=280_000)
        pair.kill(dead := pair.busy())
        answer = asked.result()
    assert answer.status_code == 200
    assert count(pair.metrics, "sent_again") == 1
    survivor = pair.fleet.replicas["1" if dead == "0" else "0"]
    assert answer.content == npy(survivor.url, **LONG).content
    assert not pair.fleet.replicas[dead].under_way
    assert npy(pair.url, **LONG).headers["Trilemma-Cache"] == "hit"  # and it is known where the answer is now


def test_a_stream_whose_replica_is_killed_begins_again_and_says_so(pair: Pair) -> None:
    unseeded = {name: value for name, value in LONG.items() if name != "seed"}
    received = events(pair.url, unseeded, pair)
    names = [name for name, _ in received]
    assert names.count("restarted") == names.count("completed") == 1
    assert names[-1] == "completed"
    drawn, again = (data["seed"] for name, data in received if name == "queued")
    assert drawn == again == received[-1][1]["seed"]
    steps = [data["index"] for name, data in received[names.index("restarted") :] if name == "step"]
    assert (steps[0], steps[-1]) == (1, 1000)
