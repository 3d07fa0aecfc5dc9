"""`./run bench parser`: what the HTTP parser costs, by three servers of the same service that take turns.

Two things are measured of each. What HTTP adds to a request at low load is the caller's latency less the engine's and
the encoder's. The processor time of a refusal is that of the whole process, for one caller after the other.
"""

import argparse
import statistics
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, closing
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from loadtests.load.process_monitor import total
from loadtests.low_load import added_ms
from loadtests.machine import machine
from loadtests.parser_server import PROTOCOLS
from loadtests.quartiles import table
from loadtests.server_process import serving
from service.settings import SHIPPED_BUNDLES

QUICK = {"method": "ddim", "steps": 2}
LATE = b'{"method": "ddim", "steps": 50, "deadline_ms": 1}'
WRONG = b'{"method": "ddim", "steps": 0}'


def main() -> None:
    parser = argparse.ArgumentParser(prog="./run bench parser", description=__doc__)
    parser.add_argument("--bundles", type=Path, default=SHIPPED_BUNDLES, help="folder of bundles, one of them ddim")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each server")
    parser.add_argument("--requests", type=int, default=1000, help="of each kind in a turn; a tenth with images")
    arguments = parser.parse_args()
    print(f"{machine()}\n")
    measured: dict[tuple[str, str], list[float]] = defaultdict(list)
    with ExitStack() as stack:
        urls = {name: stack.enter_context(service(arguments.bundles, name)) for name in PROTOCOLS}
        for number in range(arguments.rounds):
            for name in (*PROTOCOLS[number % 3 :], *PROTOCOLS[: number % 3]):
                for kind, ms in turn(urls[name], arguments.requests):
                    measured[kind, name].append(ms)
    print(table("ms", list(PROTOCOLS), measured))


def service(bundles: Path, protocol: str) -> AbstractContextManager[str]:
    """Its log is short: uvicorn's protocols write a line for each request that is malformed."""
    return serving(bundles, "--http", protocol, "--log-level", "error", module="loadtests.parser_server")


def turn(url: str, requests: int) -> list[tuple[str, float]]:
    """Milliseconds by kind."""
    address = urlsplit(url).netloc
    with closing(HTTPConnection(address)) as connection, httpx.Client(base_url=url) as client:
        figures = [("added to a request", statistics.median(added_ms(connection, requests // 10, **QUICK)))]
        refusals: dict[str, Callable[[], int]] = {
            "429, a deadline that cannot be met": partial(status, connection, LATE),
            "422, no such number of steps": partial(status, connection, WRONG),
            "400, no such version of HTTP": partial(malformed, address),
        }
        for kind, ask in refusals.items():
            before_s = total(client, "process_cpu_seconds_total")
            statuses = {ask() for _ in range(requests)}
            figures.append((kind, 1000 * (total(client, "process_cpu_seconds_total") - before_s) / requests))
            assert statuses == {int(kind[:3])}, statuses
    return figures


def status(connection: HTTPConnection, body: bytes) -> int:
    connection.request("POST", "/generate", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    return answer.status


def malformed(address: str) -> int:
    with closing(HTTPConnection(address)) as connection:
        connection._http_vsn_str = "HTTP/9.9.9"  # type: ignore[attr-defined]
        connection.request("GET", "/generate")
        return connection.getresponse().status


if __name__ == "__main__":
    main()
