"""What HTTP adds to a request for one caller alone."""

import json
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any


def added_ms(connection: HTTPConnection, requests: int, **fields: Any) -> list[float]:
    """Milliseconds of each request's latency that are not the engine's and not the encoder's, one request at a time.

    The caller is the standard library's client, as httpx itself takes a millisecond more.
    """
    headers = {"Accept": "image/png", "Content-Type": "application/json"}
    added = []
    for seed in range(requests):
        start_s = time.perf_counter()
        connection.request("POST", "/generate", json.dumps({**fields, "seed": seed}), headers)
        answer = connection.getresponse()
        answer.read()
        latency_ms = 1000 * (time.perf_counter() - start_s)
        added.append(latency_ms - sum(ms for name, ms in timings(answer.headers["Server-Timing"]) if name != "total"))
    return added


def timings(header: str) -> Iterator[tuple[str, float]]:
    """The parts of a Server-Timing header, in milliseconds."""
    for part in header.split(", "):
        name, _, ms = part.partition(";dur=")
        yield name, float(ms)
