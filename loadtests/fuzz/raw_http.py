"""Requests by the letter and against it: heads, framings, offers, and bytes that are no HTTP."""

from collections.abc import Callable
from random import Random

from loadtests.fuzz.exchange import Attempt
from loadtests.fuzz.values import number

BODY = b'{"method":"ddim","steps":2,"seed":1}'
TARGETS = [
    "/",
    "/generate",
    "/generate",
    "/healthz",
    "/readyz",
    "/metrics",
    "/methods",
    "/docs",
    "/openapi.json",
    "/v2",
]
TARGETS += ["/v1/models", "/v1/images/generations", "/v2/models/ddim", "/v2/models/ddim/infer", "/admin/reload"]
TARGETS += [
    "/requests/x",
    "*",
    "http://localhost/healthz",
    "/%00%ff",
    "//",
    "/..;/",
    "/page/../../etc/passwd",
    "/\u00e9",
]
METHODS = ["GET", "GET", "POST", "POST", "POST", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW", "get"]
VERSIONS = ["1.1"] * 12 + ["1.0", "0.9", "2.0", "1.2", "11", "x"]
HEADERS = [
    b"Accept: image/png",
    b"Accept: text/html, */*;q=0.1",
    b"Accept: ;;,q=,/",
    b"Accept: " + b"a/b;q=0.1," * 500,
    b"Authorization: Bearer \xff\xfe",
    b"Connection: close",
    b"Connection: keep-alive, Upgrade",
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==",
    b"Content-Encoding: gzip",
    b"Content-Type: application/json",
    b"Content-Type: text/plain",
    b"Content-Type: multipart/form-data; boundary=",
    b'Content-Type: application/json; charset="' + b"\\" * 300,
    b"Cookie: " + b"a=b; " * 100,
    b"Expect: 100-continue",
    b"Expect: something",
    b"Host: other.example",
    b"If-None-Match: " + b'"a",' * 2000,
    b"If-None-Match: *",
    b"Origin: null",
    b"Origin: https://evil.example",
    b"Range: bytes=0-1,5-,-3,9999999999999999999-",
    b"Sec-Fetch-Site: cross-site",
    b"TE: trailers",
    b"traceparent: 00-" + b"f" * 32 + b"-" + b"f" * 16 + b"-ff",
    b"X-Forwarded-For: " + b"1.1.1.1, " * 50,
    b"X-Forwarded-Proto: gopher",
    b"X-Request-ID: " + b"x" * 5000,
    b"X-Request-ID: \x80\x81",
    b"X: a\r\n folded",
    b"X : space",
    b"no colon",
    b": no name",
    b"X: \x00\x07",
    b"X: " + b"x" * 40_000,
    b"X: x\r\n" * 150 + b"X: x",
]


def raw(random: Random) -> Attempt:
    method = random.choice(METHODS)
    head = [f"{method} {random.choice(TARGETS)} HTTP/{random.choice(VERSIONS)}".encode()]
    if random.random() < 0.95:
        head.append(b"Host: localhost")
    head += random.choices(HEADERS, k=random.choice((0, 0, 1, 1, 2, 4)))
    framing, body = random.choice(FRAMINGS)(random)
    content = b"\r\n".join([*head, *framing, b"", body])
    if random.random() < 0.15:
        content = damaged(random, content)
    return Attempt("raw HTTP", content, method, whole=False)


def no_body(_: Random) -> tuple[list[bytes], bytes]:
    return [], b""


def length(_: Random) -> tuple[list[bytes], bytes]:
    return [b"Content-Type: application/json", b"Content-Length: %d" % len(BODY)], BODY


def wrong_length(random: Random) -> tuple[list[bytes], bytes]:
    """A number of any length, or two; what is sent may be less or more."""
    return [b"Content-Length: " + number(random).encode() for _ in range(random.choice((1, 1, 2)))], BODY


def chunked(random: Random) -> tuple[list[bytes], bytes]:
    """In pieces, with extensions and trailers at times."""
    framing = [b"Content-Type: application/json", b"Transfer-Encoding: chunked"]
    step = random.choice((1, 7, len(BODY)))
    extension = random.choice((b"", b"", b";a=b", b";" + b"x" * 3000))
    pieces = [BODY[at : at + step] for at in range(0, len(BODY), step)]
    chunks = [b"%x%s\r\n%s\r\n" % (len(piece), extension, piece) for piece in pieces]
    return framing, b"".join(chunks) + b"0\r\n" + random.choice((b"", b"", b"X: trailer\r\n")) + b"\r\n"


def wrong_chunks(random: Random) -> tuple[list[bytes], bytes]:
    coding = random.choice((b"chunked", b"gzip, chunked", b"chunked, identity", b"xchunked", b"\tchunked", b"Chunked"))
    size = random.choice((b"-1", b"0x5", b"5 ", b"f" * 30, b"", b"\xb2", b"1_0"))
    return [b"Transfer-Encoding: " + coding], size + b"\r\n" + BODY + b"\r\n0\r\n\r\n"


def both(random: Random) -> tuple[list[bytes], bytes]:
    framing, body = chunked(random)
    return [*framing, b"Content-Length: %d" % random.choice((0, 5, len(body)))], body


def long_body(random: Random) -> tuple[list[bytes], bytes]:
    size = random.choice((65_535, 65_537, 300_000))
    return [b"Content-Type: application/json", b"Content-Length: %d" % size], b" " * size


FRAMINGS: list[Callable[[Random], tuple[list[bytes], bytes]]]
FRAMINGS = [no_body, length, length, chunked, chunked, wrong_length, wrong_chunks, both, long_body]


def damaged(random: Random, content: bytes) -> bytes:
    """Some bytes changed, cut out or put in; at least one is left."""
    at = random.randrange(len(content))
    end = at + random.choice((1, 4, 100))
    return random.choice(
        (
            content[:at] + random.randbytes(end - at) + content[end:],
            content[:at] + content[end:] or b"x",
            content[:at] + random.choice((b"\r\n", b"\n", b"\r", b"\x00", b" ", b"\r\n\r\n")) + content[at:],
            content[: at + 1],
            content[:end] + content[at:],
        )
    )
