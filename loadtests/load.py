"""`./run load`: starts a server, measures what it can do, and sends it locust's users for a share of that.

Settings of the server come from the environment (`TRILEMMA_MAX_QUEUED_IMAGES=64 ./run load --share 3 --max-refused 1`);
options that this command does not know are locust's (`--run-time 5m --burst 1`).
"""

import argparse
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from loadtests.mix import BATCH, BROWSING
from models.evaluate import serving
from service.settings import SHIPPED_BUNDLES

LOCUSTFILE = Path(__file__).parent / "locustfile.py"
CLIENTS, REQUESTS = 4, 8  # that keep the server busy while it is measured


def main() -> None:
    parser = argparse.ArgumentParser(prog="./run load", description=__doc__)
    parser.add_argument("--share", type=float, default=0.8, help="of the measured capacity, outside the burst")
    parser.add_argument("--bundles", type=Path, default=SHIPPED_BUNDLES, help="folder of bundles")
    parser.add_argument("--run-time", default="2m", help="how long")
    parser.add_argument(
        "--steps", default="", help="steps that callers ask for, e.g. 10,20,20,50; default: the models'"
    )
    parser.add_argument("--browsing", type=int, default=BROWSING.weight, help="weight of users that browse")
    parser.add_argument("--batch", type=int, default=BATCH.weight, help="weight of users that run jobs")
    asked, locusts = parser.parse_known_args()
    with serving(asked.bundles) as url:
        with httpx.Client(base_url=url, timeout=300) as client:
            defaults = [method["steps"]["default"] for method in client.get("/methods").json()]
            capacity = steps_per_s(client)
        steps = statistics.mean([int(each) for each in asked.steps.split(",")] if asked.steps else defaults)
        weighed = {BROWSING: asked.browsing, BATCH: asked.batch}
        per_user = sum(weight * kind.steps_per_s(steps) for kind, weight in weighed.items()) / sum(weighed.values())
        users = max(1, round(asked.share * capacity / per_user))
        print(f"capacity {capacity:.0f} steps/s; {users} users ask for {asked.share:g} of it", flush=True)
        command = [sys.executable, "-m", "locust", "--locustfile", str(LOCUSTFILE), "--headless", "--host", url]
        command += ["--steps", asked.steps, "--browsing", str(asked.browsing), "--batch", str(asked.batch)]
        command += ["--users", str(users), "--run-time", asked.run_time, "--only-summary", *locusts]
        sys.exit(subprocess.run(command).returncode)  # noqa: S603


def steps_per_s(client: httpx.Client) -> float:
    """Row steps a second of the saturated server, all its methods in turn."""
    methods = [method["method"] for method in client.get("/methods").json()]

    def ask(i: int) -> None:
        body = {"method": methods[i % len(methods)], "n": BATCH.images}
        client.post("/generate", json=body, headers={"Accept": "application/x-npy"}).raise_for_status()

    def done() -> float:
        families = text_string_to_metric_families(client.get("/metrics").text)
        return sum(sample.value for f in families for sample in f.samples if sample.name == "trilemma_steps_total")

    ask(0)  # the first answer warms everything up
    before, start_s = done(), time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(ask, range(REQUESTS)))
    return (done() - before) / (time.perf_counter() - start_s)


if __name__ == "__main__":
    main()
