"""`./run load`: starts a server, measures its capacity, and sends it locust's users for a share of that capacity.

It also prints the server's memory and open files over time. Settings of the server come from the environment
(`TRILEMMA_MAX_QUEUED_IMAGES=64 ./run load --share 3 --max-refused 1`). Options that are not listed below go to locust
(`--run-time 5m --burst 1`).
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from loadtests.load.process_monitor import ProcessMonitor, total
from loadtests.load.users import KINDS
from loadtests.server_process import serving
from service.settings import SHIPPED_BUNDLES

LOCUSTFILE = Path(__file__).parent.parent / "locustfile.py"
CLIENTS, REQUESTS = 4, 8  # of the measurement of the capacity


def main() -> None:
    parser = argparse.ArgumentParser(prog="./run load", description=__doc__)
    parser.add_argument(
        "--share", type=float, default=0.8, help="load outside the burst, as a share of the measured capacity"
    )
    parser.add_argument("--users", type=int, help="number of users; default: enough for the share")
    parser.add_argument("--bundles", type=Path, default=SHIPPED_BUNDLES, help="folder of bundles")
    parser.add_argument("--run-time", default="2m", help="duration of the run")
    parser.add_argument(
        "--steps", default="", help="steps that users ask for, e.g. 10,20,20,50; default: those of the models"
    )
    parser.add_argument("--guidance", type=float, default=1.0, help="weight that users ask for where a model takes it")
    parser.add_argument(
        "--max-growth", type=float, help="largest growth of the server's memory in the last half of the run, MB an hour"
    )
    for name, kind in KINDS.items():
        parser.add_argument(f"--{name}", type=int, default=kind.weight, help=f"weight of {name} users")
    options, locust_options = parser.parse_known_args()
    weights = {name: getattr(options, name) for name in KINDS}
    with serving(options.bundles) as url:
        with httpx.Client(base_url=url, timeout=300) as client:
            methods = client.get("/methods").raise_for_status().json()
            capacity = steps_per_s(client, methods)
        per_user = steps_per_user(weights, mean_steps(methods, options.steps, options.guidance))
        users = options.users or max(1, round(options.share * capacity / per_user))
        share = users * per_user / capacity
        print(f"capacity {capacity:.0f} steps/s; {users} users request {share:.2f} of it", flush=True)
        command = [sys.executable, "-m", "locust", "--locustfile", str(LOCUSTFILE), "--headless", "--host", url]
        command += [f"--{name}={weight}" for name, weight in weights.items()]
        command += ["--guidance", str(options.guidance)]
        command += ["--steps", options.steps, "--users", str(users), "--run-time", options.run_time, "--only-summary"]
        with ProcessMonitor(url) as monitor:
            status = subprocess.run([*command, *locust_options]).returncode  # noqa: S603
    print(monitor)
    sys.exit(status or (options.max_growth is not None and monitor.growth_mb_per_h > options.max_growth))


def mean_steps(methods: Sequence[dict[str, Any]], steps: str, guidance: float = 1.0) -> float:
    """Row steps an image, on average over the methods: `steps`, e.g. "10,20", up to a method's maximum, or its default.

    A guided image has two rows.
    """
    choices = [int(number) for number in steps.split(",") if number]
    by_method = [
        [min(choice, method["steps"]["max"]) for choice in choices] or [method["steps"]["default"]]
        for method in methods
    ]
    rows = [2 if guidance != 1 and method["guidance"] else 1 for method in methods]
    return statistics.mean(n * statistics.mean(counts) for n, counts in zip(rows, by_method, strict=True))


def steps_per_user(weights: dict[str, int], steps: float) -> float:
    """Steps a second that a user requests, on average, when an image takes `steps`."""
    return sum(weights[name] * kind.steps_per_s(steps) for name, kind in KINDS.items()) / sum(weights.values())


def steps_per_s(client: httpx.Client, methods: Sequence[dict[str, Any]]) -> float:
    """Steps a second of the saturated server, each row of a batch counted, over its methods in turn."""

    def ask(i: int) -> None:
        body = {"method": methods[i % len(methods)]["method"], "n": KINDS["batch"].images}
        client.post("/generate", json=body, headers={"Accept": "application/x-npy"}).raise_for_status()

    ask(0)  # a warm-up
    before, start_s = total(client, "trilemma_steps_total"), time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(ask, range(REQUESTS)))
    return (total(client, "trilemma_steps_total") - before) / (time.perf_counter() - start_s)


if __name__ == "__main__":
    main()
