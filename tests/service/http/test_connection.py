"""Clients that are slow, or too many, and probes while many requests come."""

import asyncio
import json
import select
import threading
from pathlib import Path
from typing import Any

import pytest
import structlog

from service.http import connection_limit
from service.requests.turns import Turns
from tests.deploy.conftest import wait_until
from tests.service.conftest import Held
from tests.service.http.sockets import CHUNKED, HEAD, PROBE, WHOLE, WITHIN_S, answer, ask, connect, connections, serving


def test_an_answer_before_the_bodys_end_reaches_a_client_that_goes_on_sending(port: int) -> None:
    with connect(port) as client:
        client.sendall(HEAD + b"Content-Length: 10000000\r\n\r\n")
        client.sendall(b" " * 10_000_000)
        status, headers, _ = answer(client)
        assert (status, headers["connection"]) == (413, "close")
        assert client.recv(1) == b""


@pytest.mark.parametrize(
    ("sent", "status"),
    [(b"", 0), (b"GET /heal", 408), (HEAD + b"Content-Length: 9\r\n\r\n{", 408), (CHUNKED + b"9\r\n{", 408)],
)
def test_a_client_that_is_too_slow_loses_its_connection(tmp_path: Path, sent: bytes, status: int) -> None:
    with serving(tmp_path, client_timeout_s=1) as port, connect(port) as client:
        client.sendall(sent)
        assert answer(client)[0] == status
        assert client.recv(1) == b""


def test_a_client_is_not_slow_because_the_server_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting: list[Any] = []
    take = Turns.take

    def late(turns: Turns, work: Any, urgent: bool = False) -> None:
        if urgent or waiting:
            take(turns, work, urgent)
        else:
            waiting.append(work)
            asyncio.get_running_loop().call_later(2, take, turns, work)

    with serving(tmp_path, client_timeout_s=1) as port, connect(port) as client:
        monkeypatch.setattr(Turns, "take", late)
        client.sendall(WHOLE)
        assert answer(client)[0] == 200
    assert waiting


def test_a_client_that_reads_nothing_loses_its_connection(tmp_path: Path) -> None:
    with serving(tmp_path, client_timeout_s=1) as port, connect(port) as client:
        client.setblocking(False)
        request = b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n"
        ended = select.poll()
        ended.register(client, select.POLLERR | select.POLLHUP)
        for _ in range(10_000):
            try:
                client.send(request * 100)
            except BlockingIOError:
                break
            except ConnectionError:
                return
        assert ended.poll(WITHIN_S * 1000)


def test_a_new_connection_takes_the_place_of_that_which_waited_longest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_limit, "GRACE_S", 0)
    with (
        serving(tmp_path, max_connections=4) as port,
        structlog.testing.capture_logs() as logs,
        connections(port, 4) as half_open,
    ):
        half_open[0].sendall(b"GET /half")
        with connect(port) as fifth:
            fifth.sendall(WHOLE)
            assert answer(fifth)[0] == 200
            assert half_open[0].recv(1) == b""
            half_open[1].sendall(PROBE)
            assert answer(half_open[1])[0] == 200
    warnings = [line for line in logs if "limit of connections" in line["event"]]
    assert [(line["log_level"], line["limit"]) for line in warnings] == [("warning", 4)]


def test_one_connection_too_many_is_told_so_and_probes_are_answered(tmp_path: Path) -> None:
    runtime = Held()
    with serving(tmp_path, runtime, max_connections=4) as port:
        with connections(port, 4) as working:
            for seed, client in enumerate(working):
                client.sendall(WHOLE.replace(b'"seed": 1', b'"seed": %d' % seed))
            assert runtime.entered.wait(WITHIN_S)
            status, headers, body = ask(port, WHOLE)
            assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
            assert json.loads(body)["type"] == "urn:trilemma:unavailable"
            assert ask(port, PROBE)[0] == 200
            runtime.go.set()
            assert [answer(client)[0] for client in working] == [200] * 4
        wait_until(lambda: ask(port, WHOLE)[0] == 200)


def test_health_answers_soon_while_many_requests_come_at_once(tmp_path: Path) -> None:
    with serving(tmp_path) as port, connections(port, 300) as clients, connect(port) as probe:
        probe.settimeout(10)  # ten times what is promised
        sending = threading.Thread(target=lambda: [client.sendall(WHOLE) for client in clients])
        sending.start()
        for _ in range(20):
            probe.sendall(PROBE)
            assert answer(probe)[0] == 200
        sending.join()
        assert {answer(client)[0] for client in clients} == {200}
