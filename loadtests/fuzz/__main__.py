"""`./run fuzz`: starts a server, and sends it hostile requests of every kind, then what its own description suggests.

First raw HTTP, JSON, tensors and event streams, drawn from `--seed`: each gets an answer that is no error of the
server's, while `/healthz` and `/readyz` are asked in turns, each from a connection of its own. Then schemathesis draws
from the OpenAPI description. Options that this command does not know are schemathesis' (`--workers 2`).
"""

import argparse
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

from loadtests.fuzz import bodies, description
from loadtests.fuzz.exchange import Attempt, Outcome, attempt
from loadtests.fuzz.raw_http import raw
from loadtests.server_process import serving
from service.settings import SHIPPED_BUNDLES

KINDS = [raw, raw, raw, bodies.generation, bodies.openai, bodies.inference, bodies.inference, bodies.stream]
AT_A_TIME = 16
CLIENT_TIMEOUT_S = 3  # of the server: half a request gets its 408 after it
PROBES = [
    Attempt("probe", b"GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % path, "GET")
    for path in (b"/healthz", b"/readyz")
]
PROBE_LIMIT_S = 10.0  # ten times what is promised on a machine that does nothing else


def main() -> None:
    parser = argparse.ArgumentParser(prog="./run fuzz", description=__doc__)
    parser.add_argument("--bundles", type=Path, default=SHIPPED_BUNDLES, help="folder of bundles")
    parser.add_argument("--requests", type=int, default=20_000, help="hostile requests")
    parser.add_argument("--seed", type=int, default=1, help="of all that is drawn")
    parser.add_argument("--examples", type=int, default=400, help="approximate number of schemathesis' an operation")
    arguments, options = parser.parse_known_args()
    with serving(arguments.bundles, "--client-timeout-s", str(CLIENT_TIMEOUT_S)) as url:
        good = hostile(url, arguments.requests, arguments.seed)
        status = description.fuzz(url, arguments.examples, ["--seed", str(arguments.seed), *options])
    sys.exit(status or not good)


def hostile(url: str, requests: int, seed: int) -> bool:
    """Sends the requests, and prints what came of them. Whether all was well."""
    address = (str(urlsplit(url).hostname), int(urlsplit(url).port or 80))
    outcomes: Counter[tuple[str, str]] = Counter()
    faults = 0

    def one(number: int) -> tuple[int, Attempt, Outcome]:
        random = Random(f"{seed} {number}")  # noqa: S311
        what = random.choice(KINDS)(random)
        return number, what, attempt(address, what)

    with Probing(address) as probing, ThreadPoolExecutor(AT_A_TIME) as pool:
        for number, what, outcome in pool.map(one, range(requests)):
            outcomes[what.kind, outcome.name] += 1
            if outcome.is_fault(what):
                faults += 1
                print(f"request {number} of seed {seed}: {outcome.name} {outcome.end!r}\n  {what.content[:1000]!r}")
    for (kind, name), count in sorted(outcomes.items()):
        print(f"{kind:14} {name:5} {count:6}")
    print(f"{requests} requests, {faults} faults; {probing.count} probes, the slowest {probing.slowest_s:.2f} s")
    return not faults and probing.failed == 0 and probing.slowest_s < PROBE_LIMIT_S


class Probing:
    """Asks for the server's health or readiness every 50 ms, as long as it is entered."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.count = self.failed = 0
        self.slowest_s = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._probe)

    def __enter__(self) -> "Probing":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _probe(self) -> None:
        while not self._ended.wait(0.05):
            start_s = time.perf_counter()
            self.failed += attempt(self.address, PROBES[self.count % len(PROBES)]).name != "200"
            self.slowest_s = max(self.slowest_s, time.perf_counter() - start_s)
            self.count += 1


if __name__ == "__main__":
    main()
