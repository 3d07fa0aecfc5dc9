"""Refusals of what is no request: a line with the client, and only now and then, however many there are."""

from pathlib import Path

import pytest
import structlog

from service.errors import MalformedRequest
from service.http.refusal_log import EVERY_S, RefusalLog
from tests.service.http.sockets import ask, serving


def test_a_flood_is_a_line_now_and_then_that_says_how_many_there_were() -> None:
    now = [100.0]
    refusals = RefusalLog(clock=lambda: now[0])
    with structlog.testing.capture_logs() as lines:
        for _ in range(1000):
            refusals.note(MalformedRequest("no HTTP"), ("192.0.2.7", 4711))
        now[0] += EVERY_S
        refusals.note(MalformedRequest("no HTTP"), None)
    assert [(line["client"], line["others_since_the_last_line"]) for line in lines] == [("192.0.2.7", 0), (None, 999)]
    assert {(line["status"], line["reason"]) for line in lines} == {(400, "no HTTP")}


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"\0\1 garbage\r\n\r\n", "Invalid method encountered"),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", "its target is neither a path nor a URL"),
        (b"GET http://[:: HTTP/1.1\r\nHost: a\r\n\r\n", "its target is neither a path nor a URL"),
    ],
)
def test_the_line_has_the_client_and_what_it_was_told(tmp_path: Path, sent: bytes, reason: str) -> None:
    with serving(tmp_path) as port, structlog.testing.capture_logs() as lines:
        for _ in range(3):
            status, _, body = ask(port, sent)
            assert (status, reason in body.decode()) == (400, True)
    (line,) = [line for line in lines if line["log_level"] == "warning"]
    assert (line["client"], line["reason"]) == ("127.0.0.1", reason)
