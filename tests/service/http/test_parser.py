"""What comes over a socket: requests by the letter of RFC 9112, and heads without an end."""

import json
import select
import socket
from itertools import count, islice, pairwise

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from service.http.parser import RequestParser
from tests.deploy.conftest import wait_until
from tests.service.http.sockets import BODY, CHUNKED, HEAD, IN_CHUNKS, PROBE, READ, WHOLE, answer, ask, connect


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


@settings(max_examples=40, deadline=None)
@given(
    offsets=st.sets(st.integers(1, 600), max_size=30),
    requests=st.lists(st.sampled_from([WHOLE, PROBE, CHUNKED + IN_CHUNKS, b"\r\n" + PROBE]), min_size=1, max_size=3),
)
def test_how_a_request_is_cut_changes_nothing(port: int, offsets: set[int], requests: list[bytes]) -> None:
    for number, request in enumerate(requests):
        kept = requests[: number + 1]
        if b"chunked" in request:  # what follows such a body at once is not read
            break
    sent = b"".join(kept)
    cuts = [0, *sorted(offset for offset in offsets if offset < len(sent)), len(sent)]
    with connect(port) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start, end in pairwise(cuts):
            client.sendall(sent[start:end])
        assert [answer(client)[0] for _ in kept] == [200] * len(kept)


def test_what_comes_with_the_end_of_a_body_in_chunks_is_not_read_and_the_answer_says_so(port: int) -> None:
    with connect(port) as client:
        client.sendall(CHUNKED + IN_CHUNKS + WHOLE)
        status, headers, _ = answer(client)
        assert (status, headers["connection"]) == (200, "close")
        assert client.recv(1) == b""
        with connect(port) as another:
            another.sendall(CHUNKED + IN_CHUNKS)
            assert answer(another)[0] == 200
            another.sendall(WHOLE)
            assert answer(another)[0] == 200


def test_a_trailer_is_not_a_header(port: int) -> None:
    trailers = b"Accept: image/webp\r\n\r\n"
    status, headers, _ = ask(port, CHUNKED + IN_CHUNKS.removesuffix(b"\r\n") + trailers)
    assert (status, headers["content-type"]) == (200, "application/json")


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
    "chunks of an old client": CHUNKED.replace(b"1.1", b"1.0") + b"0\r\n\r\n",
    "a later version": b"GET /healthz HTTP/2.0\r\nHost: a\r\n\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a tunnel": b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n",
    "a method that is none": b"GENERATE /generate HTTP/1.1\r\nHost: a\r\n\r\n",
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
    "many trailers": CHUNKED + b"0\r\n" + b"X: x\r\n" * 20_000,
    "what a chunk has beside its length": CHUNKED + b"1;" + b"x" * 100_000,
}


@pytest.mark.parametrize("sent", LONG_HEADS.values(), ids=LONG_HEADS)
def test_a_head_that_is_too_long_is_refused_however_it_is_long(port: int, sent: bytes) -> None:
    status, headers, body = ask(port, sent)
    assert (status, headers["content-type"]) == (431, "application/problem+json")
    assert json.loads(body)["max_bytes"] == 16384


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes that a connection has whenever it parses."""
    noted: list[int] = []
    parse = RequestParser.parse

    def noting(parser: RequestParser) -> None:
        noted.append(len(parser.received))
        parse(parser)

    monkeypatch.setattr(RequestParser, "parse", noting)
    return noted


def test_no_more_requests_are_kept_than_were_read_at_once(port: int, kept: list[int]) -> None:
    with connect(port) as client:
        client.setblocking(False)
        long = WHOLE.replace(b"Length: %d" % len(BODY), b"Length: %d" % (len(BODY) + 9))
        seeds = count(10**9)  # none is in the cache
        requests = (long.replace(b'"seed": 1', b'"seed": %d' % seed) for seed in seeds)
        unsent = b""
        while len(kept) < 200:  # requests, each of which waits for the one before it
            unsent = unsent or b"".join(islice(requests, 2000))
            try:
                unsent = unsent[client.send(unsent) :]
            except BlockingIOError:
                select.select([], [client], [], 0.01)
    assert 1000 < max(kept) <= 2 * READ


def test_no_more_of_a_long_head_is_kept_than_a_head_may_have(port: int, kept: list[int]) -> None:
    assert ask(port, HEAD + b"X: " + b"x" * 5_000_000)[0] == 431
    assert max(kept) <= 16384 + READ
