"""What a step costs and where a saturated server's time goes: `./run bench` prints it for docs/performance.md."""

import argparse
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from models.evaluate import serving
from service import bundle
from service.bundle import Bundle
from service.runtime import OrtRuntime
from service.settings import SHIPPED_BUNDLES

BATCH_SIZES = (1, 4, 16)
CLIENTS = 4
IMAGES_PER_REQUEST = 16


def main() -> None:
    parser = argparse.ArgumentParser(prog="./run bench", description="Measure the step and the saturated server.")
    parser.add_argument("--bundles", type=Path, default=SHIPPED_BUNDLES, help="folder of bundles")
    parser.add_argument("--rounds", type=int, default=100, help="timings of each step")
    parser.add_argument("--requests", type=int, default=40, help="requests to the saturated server")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, {processor()}\n")
    for loaded in bundle.load_all(arguments.bundles)[0].values():
        step_table(loaded, arguments.rounds)
        saturate(loaded, arguments.bundles, arguments.requests)


def processor() -> str:
    """The processor's name as Linux gives it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))


def step_table(loaded: Bundle, rounds: int) -> None:
    """Milliseconds of a step by batch size and threads; the cases take turns, so that a slow spell hits them alike."""
    threads = range(1, (os.cpu_count() or 1) + 1)
    runtimes = {count: OrtRuntime(loaded, count) for count in threads}
    inputs = {rows: loaded.first_step(rows) for rows in BATCH_SIZES}
    times: dict[tuple[int, int], list[float]] = {(c, rows): [] for c in threads for rows in BATCH_SIZES}
    for _ in range(rounds):
        for (count, rows), measured in times.items():
            start = time.perf_counter()
            runtimes[count].step(inputs[rows])
            measured.append(1000 * (time.perf_counter() - start))
    print(f"| {loaded.manifest.name}: median ms a step | " + " | ".join(f"batch {rows}" for rows in BATCH_SIZES) + " |")
    print("|---|" + "---|" * len(BATCH_SIZES))
    for count in threads:
        cells = (statistics.median(times[count, rows]) for rows in BATCH_SIZES)
        print(f"| {count} thread(s) | " + " | ".join(f"{ms:.2f}" for ms in cells) + " |")
    print()


def saturate(loaded: Bundle, bundles: Path, requests: int) -> None:
    """Keeps CLIENTS requests going and compares the time inside the network with the time that passed."""
    name, steps = loaded.manifest.name, loaded.manifest.recommended_steps
    with (
        serving(bundles) as url,
        httpx.Client(base_url=url, timeout=300) as client,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):

        def ask(seed: int) -> None:
            body = {"method": name, "steps": steps, "seed": seed, "n": IMAGES_PER_REQUEST, "class_label": seed % 10}
            client.post("/generate", json=body, headers={"Accept": "application/x-npy"}).raise_for_status()

        def counters() -> tuple[float, float]:
            text = client.get("/metrics").text
            samples = {s.name: s.value for f in text_string_to_metric_families(text) for s in f.samples if not s.labels}
            return samples["trilemma_network_seconds_total"], time.perf_counter()

        list(pool.map(ask, range(CLIENTS)))
        network_before, clock_before = counters()
        list(pool.map(ask, range(requests)))
        network_after, clock_after = counters()
    passed_s = clock_after - clock_before
    images = requests * IMAGES_PER_REQUEST
    print(
        f"saturated, {steps} steps an image: {images / passed_s:.1f} images/s, {images * steps / passed_s:.0f} steps/s,"
    )
    print(f"{(network_after - network_before) / passed_s:.1%} of the time inside the network\n")


if __name__ == "__main__":
    main()
