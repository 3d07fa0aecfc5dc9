"""The service keeps to its own description and takes every hostile request, and the fuzzer sees one that does not."""

import re
import socket
import threading
from pathlib import Path
from random import Random

import pytest

from loadtests.fuzz.__main__ import hostile
from loadtests.fuzz.description import fuzz
from loadtests.fuzz.exchange import Attempt, attempt
from loadtests.fuzz.raw_http import raw
from tests.conftest import write_bundle
from tests.deploy.conftest import in_this_process

FUZZING = ["--phases", "fuzzing", "--no-color"]


def test_no_request_makes_an_answer_that_the_description_lacks(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_bundle(tmp_path / "toy")
    with in_this_process(tmp_path) as (url, _):
        status = fuzz(url, 20, ["--seed", "1", *FUZZING])
    output = capfd.readouterr().out
    assert status == 0, output
    (generated,) = re.findall(r"(\d+) generated", output)
    assert int(generated) >= 200


def test_an_error_of_the_servers_fails_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_bundle(tmp_path / "toy")
    with in_this_process(tmp_path) as (url, app):
        app.state.service.engine.stop()
        status = fuzz(url, 5, ["--seed", "1", *FUZZING, "--include-path", "/healthz"])
    assert status == 1
    assert "503" in capfd.readouterr().out


def test_no_hostile_request_is_the_servers_fault(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_bundle(tmp_path / "ddim", name="ddim", guidance=True)
    with in_this_process(tmp_path, client_timeout_s=1) as (url, _):
        well = hostile(url, 400, seed=2)
    output = capfd.readouterr().out
    assert well, output
    assert {"raw HTTP", "JSON", "OpenAI", "tensors", "event stream"} <= set(re.findall(r"^(\S.*?)  +\d", output, re.M))


def test_a_hostile_request_that_breaks_the_server_is_seen(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("service.http.responses.negotiate", broken)
    write_bundle(tmp_path / "ddim", name="ddim")
    with in_this_process(tmp_path, client_timeout_s=1) as (url, _):
        well = hostile(url, 100, seed=2)
    assert not well
    assert "500" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        (b"", "lost"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhal", "lost"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhal", "lost"),
        (b"no HTTP\r\n\r\n", "lost"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", "204"),
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", "503"),
        (b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n", "408"),
        (b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n", "500"),
    ],
)
def test_an_attempt_tells_an_answer_from_half_of_one(sent: bytes, name: str) -> None:
    what = Attempt("any", b"x")

    def serve() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(1)
            connection.sendall(sent)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = threading.Thread(target=serve)
        server.start()
        outcome = attempt(listening.getsockname(), what)
        server.join()
    assert outcome.name == name
    assert outcome.is_fault(what) == (name in ("lost", "408", "500"))


def test_the_same_seed_draws_the_same_requests() -> None:
    drawn = ([raw(Random(seed)).content for seed in range(start, start + 50)] for start in (0, 0, 50))  # noqa: S311
    first, again, other = drawn
    assert first == again != other
