"""`./run bench grpc`: the Open Inference Protocol over gRPC beside REST, by tritonclient, in turns of one server.

Of one caller: the latency of calls of 4 steps, and the processor time of the whole server for a refusal, where there is
little but the protocol. Of 16 callers with a connection each: calls a second.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from loadtests.load.process_monitor import total
from loadtests.machine import machine
from loadtests.quartiles import table
from loadtests.server_process import free_port, serving
from service.settings import SHIPPED_BUNDLES

CALLERS = 16
PROTOCOLS: dict[str, ModuleType] = {"REST": tritonclient.http, "gRPC": tritonclient.grpc}
Client = Any  # of either package


def main() -> None:
    parser = argparse.ArgumentParser(prog="./run bench grpc", description=__doc__)
    parser.add_argument("--bundles", type=Path, default=SHIPPED_BUNDLES, help="folder of bundles, with METHOD")
    parser.add_argument("--method", default="latent", help="whose images are asked for")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each protocol")
    parser.add_argument("--requests", type=int, default=500, help="of each kind in a turn")
    arguments = parser.parse_args()
    print(f"{machine()}\n")
    measured: dict[tuple[str, str], list[float]] = defaultdict(list)
    port = free_port()
    with serving(arguments.bundles, "--grpc-port", str(port), "--cache-bytes", "0", "--log-level", "error") as url:
        addresses = {"REST": url.removeprefix("http://"), "gRPC": f"127.0.0.1:{port}"}
        for number in range(arguments.rounds):
            for name in sorted(PROTOCOLS, reverse=number % 2 == 0):
                for kind, figure in turn(url, name, addresses[name], arguments.method, arguments.requests):
                    measured[kind, name].append(figure)
    print(table("", list(PROTOCOLS), measured))


def turn(url: str, protocol: str, address: str, method: str, requests: int) -> list[tuple[str, float]]:
    """Figures by kind."""
    library = PROTOCOLS[protocol]
    with closing(library.InferenceServerClient(address)) as client, httpx.Client(base_url=url) as metrics:
        infer(library, client, method, 4, 0)
        milliseconds = [1000 * timed(infer, library, client, method, 4, seed) for seed in range(requests)]
        before_s = total(metrics, "process_cpu_seconds_total")
        for seed in range(requests):
            refused(library, client, method, seed)
        refusal_ms = 1000 * (total(metrics, "process_cpu_seconds_total") - before_s) / requests

    def caller(number: int) -> None:
        with closing(library.InferenceServerClient(address)) as own:
            for seed in range(requests // CALLERS):
                infer(library, own, method, 4, number * requests + seed)

    with ThreadPoolExecutor(CALLERS) as pool:
        seconds = timed(lambda: list(pool.map(caller, range(CALLERS))))
    return [
        ("a call of 4 steps, median, ms", statistics.median(milliseconds)),
        ("a call of 4 steps, p99, ms", float(np.percentile(milliseconds, 99))),
        ("a refusal, ms of processor", refusal_ms),
        (f"{CALLERS} callers, calls a second", requests // CALLERS * CALLERS / seconds),
    ]


def timed(call: Callable[..., object], *arguments: object) -> float:
    start_s = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start_s


def infer(library: ModuleType, client: Client, method: str, steps: int, seed: int) -> None:
    inputs = []
    for name, value, datatype, dtype in (("steps", steps, "INT32", np.int32), ("seed", seed, "UINT64", np.uint64)):
        inputs.append(library.InferInput(name, [1], datatype))
        inputs[-1].set_data_from_numpy(np.array([value], dtype=dtype))
    client.infer(method, inputs)


def refused(library: ModuleType, client: Client, method: str, seed: int) -> None:
    try:
        infer(library, client, method, 0, seed)
    except InferenceServerException:
        return
    raise AssertionError("0 steps were accepted")


if __name__ == "__main__":
    main()
