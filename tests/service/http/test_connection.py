"""What comes over a socket: requests by the letter of RFC 9112, heads and bodies without an end, and too many."""

import asyncio
import json
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from service.http import connection_limit
from service.http.parser import Parser
from service.http.turns import Turns
from tests.conftest import write_bundle
from tests.deploy.conftest import in_this_process, wait_until
from tests.service.conftest import Held

BODY = json.dumps({"method": "toy", "steps": 2, "seed": 1}).encode()
HEAD = b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
WHOLE = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
PROBE = b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
WITHIN_S = 60
READ = 256_000  # bytes that uvloop reads at a time


@contextmanager
def serving(folder: Path, runtime: Held | None = None, **settings: Any) -> Iterator[int]:
    """The port of a server of toys."""
    write_bundle(folder / "bundles" / "toy")
    with in_this_process(folder / "bundles", runtime, **settings) as (url, _):
        yield int(url.rpartition(":")[2])


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with serving(tmp_path_factory.mktemp("served"), max_body_bytes=65536) as port:
        yield port


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


@pytest.mark.parametrize(
    "offer",
    [
        b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nConnection: Upgrade, HTTP2-Settings\r\n",
        b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAA\r\n",
        b"Upgrade: TLS/1.2\r\nConnection: keep-alive, upgrade\r\n",
    ],
)
def test_an_offered_upgrade_keeps_the_body_and_the_connection(port: int, offer: bytes) -> None:
    with connect(port) as client:
        client.sendall(WHOLE.replace(b"Host: a\r\n", b"Host: a\r\n" + offer))
        assert answer(client)[0] == 200
        client.sendall(WHOLE)
        assert answer(client)[0] == 200


def test_an_old_client_gets_a_stream_without_the_marks_of_chunks(port: int) -> None:
    stream = WHOLE.replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"Host: a", b"Accept: text/event-stream")
    status, headers, body = ask(port, stream)
    assert status == 200
    assert "transfer-encoding" not in headers
    assert body.startswith(b"event: queued\n")
    assert body.endswith(b"\n\n")


def test_several_lines_of_accept_are_one_list(port: int) -> None:
    _, headers, _ = ask(port, WHOLE.replace(b"Host: a\r\n", b"Host: a\r\nAccept: text/html\r\nAccept: image/webp\r\n"))
    assert headers["content-type"] == "image/webp"


def test_requests_that_are_sent_together_are_answered_in_their_order(port: int) -> None:
    with connect(port) as client:
        client.sendall(b"".join(WHOLE.replace(b'"seed": 1', b'"seed": %d' % seed) for seed in range(9)))
        assert [json.loads(answer(client)[2])["seed"] for _ in range(9)] == list(range(9))


MALFORMED = {
    "no host": WHOLE.replace(b"Host: a\r\n", b""),
    "two hosts": WHOLE.replace(b"Host: a\r\n", b"Host: a\r\nHost: b\r\n"),
    "both framings": WHOLE.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n") + b"0\r\n\r\n",
    "two lengths": WHOLE.replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\n"),
    "a list of lengths": HEAD + b"Content-Length: 3, 4\r\n\r\nabcd",
    "a signed length": HEAD + b"Content-Length: +3\r\n\r\nabc",
    "a negative length": HEAD + b"Content-Length: -3\r\n\r\nabc",
    "a length of 5000 digits": HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
    "a coding beside chunked": CHUNKED.replace(b"chunked", b"gzip, chunked") + b"0\r\n\r\n",
    "chunked twice": CHUNKED.replace(b"chunked", b"chunked, chunked") + b"0\r\n\r\n",
    "a space before the colon": CHUNKED.replace(b"Encoding:", b"Encoding :") + b"0\r\n\r\n",
    "a header without a colon": HEAD + b"Content-Length\r\n\r\n",
    "a control character": HEAD + b"X: \x00\r\n\r\n",
    "a folded first line": b"POST /generate HTTP/1.1\r\n Host: a\r\n\r\n",
    "no version": b"GET /healthz\r\n\r\n",
    "a version of its own": b"GET /healthz HTTP/9.9.9\r\nHost: a\r\n\r\n",
    "the start of TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "a chunk's length that is none": CHUNKED + b"xyz\r\nabc\r\n0\r\n\r\n",
    "a chunk's length with a sign": CHUNKED + b"-1\r\nabc\r\n0\r\n\r\n",
    "a chunk's length of 300 digits": CHUNKED + b"f" * 300 + b"\r\nabc\r\n0\r\n\r\n",
    "a chunk longer than it says": CHUNKED + b"2\r\nabc\r\n0\r\n\r\n",
    "a body of tiny chunks": CHUNKED + b"1\r\n \r\n" * 50_000,
}


@pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED)
def test_what_two_parsers_may_read_differently_is_refused_and_ends_the_connection(port: int, sent: bytes) -> None:
    with connect(port) as client:
        client.sendall(sent + WHOLE)  # which no one may take for a request of its own
        with client.makefile("rb") as reader:
            content = reader.read()
    assert content.startswith(b"HTTP/1.1 400 ")
    assert content.count(b"HTTP/1.1 ") == 1
    assert b'"type":"urn:trilemma:malformed-request"' in content


def test_a_malformed_body_that_waits_for_leave_ends_without_an_error_in_the_log(port: int) -> None:
    path = "/v1/images/generations"  # the others' requests are elsewhere
    sent = CHUNKED.replace(b"/generate", path.encode()).replace(b"Host: a\r\n", b"Host: a\r\nExpect: 100-continue\r\n")
    with structlog.testing.capture_logs() as logs:
        assert ask(port, sent + b"xyz\r\n")[0] == 400
        wait_until(lambda: any(line.get("path") == path for line in logs))
    assert [line["status"] for line in logs if line.get("path") == path] == [400]


LONG_HEADS = {
    "one header": HEAD + b"X: " + b"x" * 1_000_000,
    "a header that ends": HEAD + b"X: " + b"x" * 200_000 + b"\r\n\r\n",
    "many headers": HEAD + b"X: x\r\n" * 100_000 + b"\r\n",
    "a hundred headers more than there may be": PROBE[:-2] + b"X: x\r\n" * 200 + b"\r\n",
    "the target": b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "the query": b"GET /healthz?" + b"x&" * 10_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "a trailer": CHUNKED + b"0\r\nX: " + b"x" * 100_000,
}


@pytest.mark.parametrize("sent", LONG_HEADS.values(), ids=LONG_HEADS)
def test_a_head_that_is_too_long_is_refused_however_it_is_long(port: int, sent: bytes) -> None:
    status, headers, body = ask(port, sent)
    assert (status, headers["content-type"]) == (431, "application/problem+json")
    assert json.loads(body)["max_bytes"] == 16384


def test_no_more_of_a_long_head_is_kept_than_a_head_may_have(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    parse = Parser.next_event

    def noting(parser: Parser) -> Any:
        kept.append(len(parser.trailing_data[0]))
        return parse(parser)

    monkeypatch.setattr(Parser, "next_event", noting)
    assert ask(port, HEAD + b"X: " + b"x" * 5_000_000)[0] == 431
    assert max(kept) <= 16384 + READ


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
    with serving(tmp_path, client_timeout_s=0.2) as port, connect(port) as client:
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
            asyncio.get_running_loop().call_later(0.5, take, turns, work)

    with serving(tmp_path, client_timeout_s=0.2) as port, connect(port) as client:
        monkeypatch.setattr(Turns, "take", late)
        client.sendall(WHOLE)
        assert answer(client)[0] == 200
    assert waiting


def test_a_client_that_reads_nothing_loses_its_connection(tmp_path: Path) -> None:
    with serving(tmp_path, client_timeout_s=0.2) as port, connect(port) as client:
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
