"""The parser that the service's own is compared with keeps the limits that are said of it."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from loadtests import parser_benchmark
from loadtests.bounded_httptools import BoundedHttptools
from service.http import server
from tests.conftest import write_bundle
from tests.deploy import conftest
from tests.service.http.test_connection import CHUNKED, HEAD, PROBE, WHOLE, ask


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def options(app: Any, settings: Any) -> dict[str, Any]:
        return {**server.options(app, settings), "http": partial(BoundedHttptools, settings.max_header_bytes)}

    monkeypatch.setattr(conftest, "options", options)
    for name in ("toy", "ddim"):
        write_bundle(tmp_path / name, name=name)
    with conftest.in_this_process(tmp_path) as (url, _):
        yield url


def test_the_other_parser_keeps_the_limits_that_it_is_compared_within(url: str) -> None:
    port = int(url.rpartition(":")[2])
    offer = b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
    expected = {
        WHOLE: 200,
        WHOLE.replace(b"Host: a\r\n", b"Host: a\r\n" + offer): 200,
        WHOLE.replace(b"Host: a\r\n", b""): 400,
        HEAD + b"X: " + b"x" * 20_000: 431,
        PROBE[:-2] + b"X: x\r\n" * 100 + b"\r\n": 431,
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n": 431,
        CHUNKED + b"1\r\n \r\n" * 300: 400,
        PROBE * 100: 400,
    }
    assert {sent: ask(port, sent)[0] for sent in expected} == expected


def test_a_turn_has_figures_of_each_kind(url: str) -> None:
    figures = dict(parser_benchmark.turn(url, 20))
    assert list(figures) == [
        "added to a request",
        "429, a deadline that cannot be met",
        "422, no such number of steps",
        "400, no such version of HTTP",
    ]
    assert figures["added to a request"] > 0
    line = parser_benchmark.table({("429", name): [1.0, 2.0, 3.0] for name in parser_benchmark.PROTOCOLS}).splitlines()[
        2
    ]
    assert line == "| 429 | 2.00 (1.00 to 3.00) | 2.00 (1.00 to 3.00) | 2.00 (1.00 to 3.00) |"
