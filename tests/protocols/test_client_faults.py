"""What the client raises for every answer that is not what it asked for: one family, and a message that says what."""

import asyncio
import base64
import io
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.protocols.conftest import own
from tests.protocols.test_command import trilemma
from trilemma import AsyncClient, Client, Lost, Refused, TrilemmaError, Unexpected
from trilemma.transport import plain

PAGE = "<html><head><title>Bad Gateway</title></head><body>nginx</body></html>"
STEP = 'event: step\ndata: {"image": 0, "index": 1, "of": 2}\n\n'
LATER = {"type": "urn:trilemma:key-spent", "status": 429, "detail": "the key 'a' has used up its work budget for now"}


def raw(status: str, content_type: str, body: str | bytes, *headers: str, length: int | None = None) -> bytes:
    """An answer as it goes over the wire; `length` where it is not the body's."""
    body = body.encode() if isinstance(body, str) else body
    fields = [f"HTTP/1.1 {status}", f"Content-Type: {content_type}", f"Content-Length: {length or len(body)}", *headers]
    return "\r\n".join([*fields, "Connection: close", "", ""]).encode() + body


@contextmanager
def answering(*answers: bytes) -> Iterator[str]:
    """The URL of a server that sends these bytes, a connection each and the last one for ever, whatever it is asked."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        stopped = threading.Event()

        def serve() -> None:
            for number in range(1000):
                client, _ = server.accept()
                with client:
                    if stopped.is_set():
                        return
                    read_request(client)
                    client.sendall(answers[min(number, len(answers) - 1)])

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            stopped.set()
            socket.create_connection(server.getsockname()).close()
            thread.join()


def read_request(client: socket.socket) -> None:
    with client.makefile("rb") as lines:
        length = 0
        while (line := lines.readline().strip()) != b"":
            name, _, value = line.partition(b": ")
            length = int(value) if name.lower() == b"content-length" else length
        lines.read(length)


def calls(client: Client) -> dict[str, Callable[[], Any]]:
    return {
        "generate": lambda: client.generate("toy"),
        "array": lambda: client.array("toy"),
        "stream": lambda: list(client.stream("toy")),
        "methods": client.methods,
    }


EVERY = ["generate", "array", "stream", "methods"]
IMAGELESS = json.dumps({"seed": 1, "images": []})
FAULTS = [
    (raw("200 OK", "text/html", PAGE), EVERY, Unexpected, "the answer is text/html"),
    (raw("200 OK", "application/json", '{"seed": 1, "ima'), ["generate", "methods"], Unexpected, "JSONDecodeError"),
    (raw("200 OK", "application/json", '{"ok": true}'), ["generate"], Unexpected, "images"),
    (raw("200 OK", "application/json", '{"ok": true}'), ["methods"], Unexpected, "no list of methods"),
    (raw("200 OK", "application/json", IMAGELESS), ["generate"], Unexpected, "no images"),
    (raw("200 OK", "application/json", "[1]"), ["generate"], Unexpected, "TypeError"),
    (raw("200 OK", "application/x-npy", b"\x93NUMPY"), ["array"], Unexpected, "EOF|read"),
    (raw("200 OK", "application/x-npy", b"PK\3\4 a zip file"), ["array"], Unexpected, "magic string"),
    (raw("200 OK", "text/event-stream", STEP), ["stream"], Lost, "ended before the images were finished"),
    (raw("200 OK", "text/event-stream", STEP, length=5000), ["stream"], Lost, "without sending complete"),
    (raw("200 OK", "text/event-stream", "event: step\ndata: {1\n\n"), ["stream"], Unexpected, "JSONDecodeError"),
    (raw("200 OK", "text/event-stream", 'event: step\ndata: {"of": 1}\n\n'), ["stream"], Unexpected, "image"),
    (raw("200 OK", "text/event-stream", "event: completed\ndata: {}\n\n"), ["stream"], Unexpected, "images"),
    (raw("200 OK", "text/event-stream", "event: error\ndata: 3\n\n"), ["stream"], Unexpected, "TypeError"),
    (raw("200 OK", "application/json", "[]", length=5000), ["generate", "methods"], Lost, "without sending complete"),
    (raw("308 Permanent Redirect", "text/html", "", "Location: https://other/"), EVERY, Unexpected, "https://other/"),
    (raw("502 Bad Gateway", "text/html", PAGE), EVERY, Refused, "^502 Bad Gateway$"),
    (raw("502 Bad Gateway", "text/plain", "no  upstream\n"), EVERY, Refused, "^502 no upstream$"),
    (raw("500 Oh", "application/problem+json", "{nothing"), EVERY, Refused, "500"),
    (raw("500 Oh", "text/plain", "x" * 100_000), EVERY, Refused, "^500 x{200}…$"),
    (b"", EVERY, Lost, "disconnected without sending"),
    (b"SSH-2.0-OpenSSH_9.2\r\n", EVERY, Lost, "."),
]


@pytest.mark.parametrize(("answer", "which", "error", "words"), FAULTS)
def test_every_faulty_answer_is_an_error_of_the_family(
    answer: bytes, which: list[str], error: type[TrilemmaError], words: str
) -> None:
    with answering(answer) as url, Client(url, retries=0) as client:
        for name in which:
            with pytest.raises(error, match=words) as raised:
                calls(client)[name]()
            assert isinstance(raised.value, TrilemmaError)
            assert len(str(raised.value)) < 1000


def test_asyncio_raises_the_same() -> None:
    async def ask(url: str, error: type[TrilemmaError], words: str) -> None:
        async with AsyncClient(url, retries=0) as client:
            with pytest.raises(error, match=words):
                await client.generate("toy")
            with pytest.raises(error, match=words):
                _ = [each async for each in client.stream("toy")]
            with pytest.raises(error, match=words):
                await client.methods()

    for answer, which, error, words in FAULTS:
        if which == EVERY:
            with answering(answer) as url:
                asyncio.run(ask(url, error, words))


def test_a_server_that_is_not_there_and_one_that_is_silent_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trilemma.transport.TIMEOUT", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as silent, Client("http://127.0.0.1:1", retries=0) as nowhere:
        with pytest.raises(Lost, match="refused"):
            nowhere.methods()
        with (
            Client(f"http://127.0.0.1:{silent.getsockname()[1]}", retries=0) as client,
            pytest.raises(Lost, match="timed"),
        ):
            client.methods()


@pytest.mark.parametrize("later", ["3600", "Fri, 31 Dec 9999 23:59:59 GMT", "9" * 400])
def test_a_server_that_asks_to_wait_for_long_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, later: str) -> None:
    waited: list[float] = []
    monkeypatch.setattr("httpx_retries.retry.time", SimpleNamespace(sleep=waited.append))
    refused = raw("429 Too Many Requests", "application/problem+json", json.dumps(LATER), f"Retry-After: {later}")
    with answering(refused) as url, Client(url) as client:
        for name in EVERY:
            with pytest.raises(Refused, match=r"used up its work budget for now; try again in \S+ s") as raised:
                calls(client)[name]()
            assert raised.value.retry_after_s >= 3600  # type: ignore[operator]
            assert raised.value.problem["type"] == LATER["type"]

    async def ask(url: str) -> None:
        async with AsyncClient(url) as client:
            with pytest.raises(Refused, match="try again in"):
                await client.generate("toy")

    with answering(refused) as url:
        asyncio.run(ask(url))
    assert waited == []


def test_a_server_that_asks_to_wait_a_little_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("httpx_retries.retry.time", SimpleNamespace(sleep=waited.append))
    refused = raw("429 Too Many Requests", "application/problem+json", json.dumps(LATER), "Retry-After: 7")
    with answering(refused, raw("200 OK", "application/json", "[]")) as url, Client(url) as client:
        assert client.methods() == []
    assert waited == [7.0]


NUMBERS = [np.int8(5), np.uint64(5), np.int64(5)]


@pytest.mark.parametrize("five", NUMBERS, ids=lambda five: type(five).__name__)
def test_numpys_numbers_are_numbers(url: str, five: Any) -> None:
    with Client(url) as client:
        result = client.array("toy", steps=five, seed=five, n=five, settings={"eta": np.float32(0.37)})
    expected = np.load(io.BytesIO(own(url, steps=5, seed=5, n=5, eta=0.37)), allow_pickle=False)
    assert result.tobytes() == expected.tobytes()


def test_what_is_no_value_for_json_is_not_sent() -> None:
    assert (plain(np.bool_(True)), plain(np.float16(0.1)), plain(np.float64(0.37))) == (True, 0.1, 0.37)
    with Client("http://127.0.0.1:1") as client:
        with pytest.raises(TypeError, match="set"):
            client.generate("toy", steps={1, 2})
        with pytest.raises(ValueError, match="Out of range float"):
            client.generate("toy", eta=float("nan"))


def test_a_preview_that_is_no_picture_is_unexpected() -> None:
    step = {"image": 0, "index": 1, "of": 2, "preview": base64.b64encode(b"no picture").decode()}
    with (
        answering(raw("200 OK", "text/event-stream", f"event: step\ndata: {json.dumps(step)}\n\n")) as url,
        Client(url, retries=0) as client,
        pytest.raises(Unexpected, match="UnidentifiedImageError"),
    ):
        list(client.stream("toy"))


def test_a_comment_in_a_stream_is_nothing(url: str) -> None:
    file = io.BytesIO()
    Image.new("L", (4, 4)).save(file, "PNG")
    answer = {"seed": 1, "images": [{"data": base64.b64encode(file.getvalue()).decode()}]}
    body = f": ping\n\n{STEP}: ping\n\nevent: later\ndata: x\n\nevent: completed\ndata: {json.dumps(answer)}\n\n"
    with answering(raw("200 OK", "text/event-stream", body)) as url, Client(url) as client:
        step, generated = client.stream("toy")
    assert (step.index, generated.images[0].size) == (1, (4, 4))  # type: ignore[union-attr]


@pytest.mark.parametrize("answer", [raw("200 OK", "text/html", PAGE), raw("200 OK", "text/event-stream", STEP), b""])
def test_the_command_says_it_in_a_line(answer: bytes, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(answer) as url:
        done = trilemma(url, "generate", "toy", "-o", str(tmp_path / "one.png"))
    assert (done.returncode, done.stderr.count("\n"), done.stderr[:10]) == (1, 1, "trilemma: "), done.stderr
    assert not list(tmp_path.iterdir())


def test_the_command_says_what_it_cannot_use_or_write_in_a_line(url: str, tmp_path: Any) -> None:
    for done in (trilemma("http://[", "methods"), trilemma("nowhere", "methods")):
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    done = trilemma(url, "generate", "toy", "-o", str(tmp_path / "no" / "folder.png"))
    assert (done.returncode, "No such file" in done.stderr) == (1, True)
    assert trilemma(url, "generate", "toy", "--setting", "eta=nan", "-o", "one.png").returncode == 2
