"""The load test itself: it detects wrong answers, and its exit code says so."""

import base64
import hashlib
import io
import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

from loadtests.load.checks import wrong_images
from loadtests.load.process_monitor import ProcessMonitor, Reading
from loadtests.load.run import mean_steps
from tests.conftest import REPOSITORY

ONE, TWO = (1, 1, 4, 5), (2, 1, 4, 5)


def png(height: int = 4, width: int = 5) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((height, width), np.uint8)).save(stream, "png")
    return stream.getvalue()


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def answer(*files: bytes, sha256: str | None = None) -> bytes:
    images = [
        {"data": base64.b64encode(file).decode(), "sha256": sha256 or hashlib.sha256(file).hexdigest()}
        for file in files
    ]
    return json.dumps({"images": images}).encode()


@pytest.mark.parametrize(
    ("content", "accept", "shape"),
    [
        (png(), "image/png", ONE),
        (npy(np.zeros(TWO, np.float32)), "application/x-npy", TWO),
        (answer(png(), png()), "application/json", TWO),
    ],
)
def test_a_right_answer_has_nothing_wrong(content: bytes, accept: str, shape: tuple[int, int, int, int]) -> None:
    assert not wrong_images(content, accept, shape)


@pytest.mark.parametrize(
    ("content", "accept", "shape"),
    [
        (png(5, 4), "image/png", ONE),
        (npy(np.zeros(ONE, np.float32)), "application/x-npy", TWO),
        (npy(np.full(ONE, np.nan, np.float32)), "application/x-npy", ONE),
        (answer(png()), "application/json", TWO),
        (answer(png(), sha256="0"), "application/json", ONE),
    ],
)
def test_a_wrong_answer_is_detected(content: bytes, accept: str, shape: tuple[int, int, int, int]) -> None:
    assert wrong_images(content, accept, shape)


def test_a_picture_cut_short_does_not_pass_for_one() -> None:
    with pytest.raises(OSError, match="truncated"):
        wrong_images(png(64, 64)[:60], "image/png", (1, 1, 64, 64))


def stream(*steps: tuple[int, int], of: int = 2, preview: bytes | None = None, last: str = "completed") -> bytes:
    """The events of these steps, (image, index) each, and the last event."""
    events = [("queued", {"seed": 7})]
    drawn = {} if preview is None else {"preview": base64.b64encode(preview).decode()}
    events += [("step", {"image": image, "index": index, "of": of, **drawn}) for image, index in steps]
    events.append((last, json.loads(answer(png(), png()))))
    return "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events).encode()


IN_ORDER = (0, 1), (1, 1), (0, 2), (1, 2)


@pytest.mark.parametrize("preview", [None, png()])
def test_a_stream_of_every_step_and_the_images_has_nothing_wrong(preview: bytes | None) -> None:
    assert not wrong_images(stream(*IN_ORDER, preview=preview), "text/event-stream", TWO)


def test_a_stream_may_spare_a_slow_reader_a_step_but_not_the_last() -> None:
    assert not wrong_images(stream((1, 1), (0, 2), (1, 2)), "text/event-stream", TWO)


@pytest.mark.parametrize(
    "content",
    [
        stream(*IN_ORDER[:-1]),
        stream(*IN_ORDER, (1, 2)),
        stream(*IN_ORDER[1::2]),
        stream(*IN_ORDER, of=3),
        stream((0, 2), (1, 1), (0, 1), (1, 2)),
        stream(*IN_ORDER, preview=png(5, 4)),
        stream(*IN_ORDER, last="error"),
        stream(),
    ],
)
def test_a_stream_that_lacks_something_is_detected(content: bytes) -> None:
    assert wrong_images(content, "text/event-stream", TWO)


def test_users_request_no_more_steps_than_a_method_takes() -> None:
    methods: list[dict[str, Any]] = [
        {"steps": {"max": 4, "default": 4}, "guidance": None},
        {"steps": {"max": 1000, "default": 20}, "guidance": {"min": 0, "max": 20, "default": 1}},
    ]
    assert mean_steps(methods, "") == mean_steps(methods, "", guidance=1.0) == 12
    assert mean_steps(methods, "", guidance=2.5) == (4 + 2 * 20) / 2
    assert mean_steps(methods, "2,10") == (2 + 4 + 2 + 10) / 4


def test_memory_that_grew_at_first_and_then_no_more_is_flat() -> None:
    monitor = ProcessMonitor("http://localhost")
    monitor.readings = [Reading(60.0 * i, 200.0 + min(i, 10), 20) for i in range(30)]
    assert abs(monitor.growth_mb_per_h) < 1e-6
    monitor.readings = [Reading(60.0 * i, 200.0 + 0.1 * i, 20) for i in range(30)]
    assert abs(monitor.growth_mb_per_h - 6) < 1e-6


def load(*options: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "loadtests.load.run", "--run-time", "6s", *options]
    return subprocess.run(
        command,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env={**os.environ, "TRILEMMA_THREADS": "1", **environment},
    )


def test_a_server_with_little_to_do_passes() -> None:
    ended = load("--share", "0.2", "--burst", "1", "--max-late", "1")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ": no faults" in ended.stdout
    assert "open files at the start" in ended.stdout


def test_an_overloaded_server_refuses_and_answers_nothing_wrongly() -> None:
    ended = load("--share", "8", "--steps", "20,50", "--max-late", "1", TRILEMMA_MAX_QUEUED_IMAGES="64")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "were refused" in ended.stdout
    assert "were wrong" not in ended.stdout
