"""`./run bench`: the cost of a step by threads and workers, and the server's overhead; prints tables for the docs."""

import argparse
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import httpx
import onnxruntime as ort
from prometheus_client.parser import text_string_to_metric_families

from bundle import loading
from bundle.loading import Bundle
from bundle.manifest import STEP
from loadtests.low_load import added_ms
from loadtests.machine import machine
from loadtests.server_process import serving
from service.engine.denoise import first_step
from service.runtimes.cpu import OrtRuntime
from service.settings import SHIPPED_BUNDLES

BATCH_SIZES = (1, 4, 16)
CORES = os.cpu_count() or 1
CLIENTS = 4
IMAGES_PER_REQUEST = 16
LOW_LOAD = 60  # requests, one after the other


@dataclass(frozen=True)
class Choice:
    """A way to use the machine's cores."""

    workers: int  # steps at a time
    threads: int  # of their one session
    spinning: bool = True  # threads wait by spinning

    def __str__(self) -> str:
        spinning = "" if self.threads == 1 else ", spinning" if self.spinning else ", not spinning"
        return f"{self.workers} at a time, {self.threads} thread(s){spinning}"

    def session(self, loaded: Bundle) -> ort.InferenceSession:
        """A new session of the model's step."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(self.spinning)))
        return ort.InferenceSession(loaded.folder / STEP, options, ["CPUExecutionProvider"])


CHOICES = [Choice(1, 1), Choice(1, CORES), Choice(1, CORES, spinning=False), Choice(CORES, 1)]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="./run bench", description="Measure the cost of a step, and a saturated server."
    )
    parser.add_argument("--bundles", type=Path, default=SHIPPED_BUNDLES, help="folder of bundles")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the step's timings, half a second a case")
    parser.add_argument("--requests", type=int, default=40, help="number of requests to the saturated server")
    arguments = parser.parse_args()
    print(f"{machine()}\n")
    for loaded in loading.load_all(arguments.bundles)[0].values():
        bare = step_table(loaded, arguments.rounds)
        with serving(arguments.bundles) as url, httpx.Client(base_url=url, timeout=300) as client:
            low_load(url, loaded)
            saturate(client, loaded, arguments.requests, bare)


def step_table(loaded: Bundle, rounds: int) -> float:
    """Prints steps of an image a second, and milliseconds a step. The cases take turns, so a slow phase hits all.

    Returns the most steps a second of one session that runs one step at a time, with each image's decoding.
    """
    rates: dict[tuple[Choice, int], list[float]] = {(c, rows): [] for c in CHOICES for rows in BATCH_SIZES}
    for _ in range(rounds):
        for (choice, rows), measured in rates.items():  # a new session each: threads of the last one may still spin
            measured.append(rate(choice, choice.session(loaded), loaded, rows))
    best = {case: statistics.median(measured) for case, measured in rates.items()}
    sizes = " | ".join(f"batch {rows}" for rows in BATCH_SIZES)
    print(f"| {loaded.manifest.name}: steps of an image a second, and ms a step | {sizes} |")
    print("|---|" + "---|" * len(BATCH_SIZES))
    for choice in CHOICES:
        cells = ((best[choice, rows], 1000 * choice.workers * rows / best[choice, rows]) for rows in BATCH_SIZES)
        print(f"| {choice} | " + " | ".join(f"{per_s:.0f}, {ms:.2f} ms" for per_s, ms in cells) + " |")
    print()
    steps_s = min(1 / per_s for (choice, _), per_s in best.items() if choice.workers == 1)
    return 1 / (steps_s + decoding_s(loaded) / loaded.manifest.recommended_steps)


def decoding_s(loaded: Bundle, times: int = 10) -> float:
    """Seconds of an image's decoding, in batches of the largest size, on as many threads as there are cores."""
    runtime, rows = OrtRuntime(loaded, CORES), BATCH_SIZES[-1]
    x, _ = runtime.step(first_step(loaded, rows))
    seconds = []
    for _ in range(times):
        start_s = time.perf_counter()
        runtime.decode(x)
        seconds.append(time.perf_counter() - start_s)
    return statistics.median(seconds) / rows


def rate(choice: Choice, session: ort.InferenceSession, loaded: Bundle, rows: int, seconds: float = 0.5) -> float:
    """Steps of an image a second in bare loops over the session, `choice.workers` of them at a time."""
    inputs = OrtRuntime(loaded, threads=1).graph_inputs(first_step(loaded, rows))
    session.run(None, inputs)

    def loop(_: int) -> float:
        steps, start_s = 0, time.perf_counter()
        while (passed_s := time.perf_counter() - start_s) < seconds:
            session.run(None, inputs)
            steps += rows
        return steps / passed_s

    with ThreadPoolExecutor(choice.workers) as pool:
        return sum(pool.map(loop, range(choice.workers)))


def low_load(url: str, loaded: Bundle) -> None:
    """Prints the overhead of HTTP for one caller alone."""
    added = added_ms(HTTPConnection(url.removeprefix("http://")), LOW_LOAD, method=loaded.manifest.name)
    print(f"alone: HTTP adds {statistics.median(added):.2f} ms to a request, in the median")


def saturate(client: httpx.Client, loaded: Bundle, requests: int, bare: float) -> None:
    """Keeps CLIENTS requests in flight; prints the throughput over a bare loop's, and the share of time in the network.

    `bare` is the bare loop's steps a second.
    """
    name, steps = loaded.manifest.name, loaded.manifest.recommended_steps

    def ask(seed: int) -> None:
        body = {"method": name, "steps": steps, "seed": seed, "n": IMAGES_PER_REQUEST, "class_label": seed % 10}
        client.post("/generate", json=body, headers={"Accept": "application/x-npy"}).raise_for_status()

    def counters() -> tuple[float, float]:
        text = client.get("/metrics").text
        samples = {s.name: s.value for f in text_string_to_metric_families(text) for s in f.samples if not s.labels}
        return samples["trilemma_network_seconds_total"], time.perf_counter()

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(ask, range(requests, requests + CLIENTS)))
        network_before, clock_before = counters()
        list(pool.map(ask, range(requests)))
        network_after, clock_after = counters()
    passed_s = clock_after - clock_before
    images = requests * IMAGES_PER_REQUEST
    per_s = images * steps / passed_s
    print(f"saturated, {steps} steps an image: {images / passed_s:.1f} images/s, {per_s:.0f} steps/s,")
    print(f"{per_s / bare:.2f} of the best bare loop over one session,")
    print(f"{(network_after - network_before) / passed_s:.1%} of the time inside the network\n")


if __name__ == "__main__":
    main()
