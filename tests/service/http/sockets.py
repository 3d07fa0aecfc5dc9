"""A server of toys, and what goes over its sockets byte by byte."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import WITHIN_S, write_bundle
from tests.deploy.conftest import in_this_process
from tests.service.conftest import Held

BODY = json.dumps({"method": "toy", "steps": 2, "seed": 1}).encode()
HEAD = b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
WHOLE = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
PROBE = b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
IN_CHUNKS = b"%x\r\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n"
READ = 256_000  # bytes that uvloop reads at a time


@contextmanager
def serving(folder: Path, runtime: Held | None = None, **settings: Any) -> Iterator[int]:
    """The port of a server of toys."""
    write_bundle(folder / "bundles" / "toy")
    with in_this_process(folder / "bundles", runtime, **settings) as (url, _):
        yield int(url.rpartition(":")[2])


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=WITHIN_S)


@contextmanager
def connections(port: int, count: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(connect(port)) for _ in range(count)]


def answer(client: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the next answer, and status 0 where the connection ends before it."""
    with client.makefile("rb", buffering=0) as reader:  # what comes after the answer is not read
        line = reader.readline()
        if not line:
            return 0, {}, b""
        fields = [header.decode().rstrip().partition(": ") for header in iter(reader.readline, b"\r\n")]
        headers = {name.lower(): value for name, _, value in fields}
        if "content-length" in headers:
            body = client.recv(int(headers["content-length"]), socket.MSG_WAITALL)
        else:
            body = reader.readall()
    return int(line.split(b" ")[1]), headers, body


def ask(port: int, *sent: bytes) -> tuple[int, dict[str, str], bytes]:
    with connect(port) as client:
        for part in sent:
            client.sendall(part)
        return answer(client)
