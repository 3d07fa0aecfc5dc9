"""The load test itself: it sees a wrong answer, and its exit code says what it saw."""

import base64
import hashlib
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from loadtests.answers import wrong_images
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
def test_a_wrong_answer_is_seen(content: bytes, accept: str, shape: tuple[int, int, int, int]) -> None:
    assert wrong_images(content, accept, shape)


def test_a_picture_cut_short_does_not_pass_for_one() -> None:
    with pytest.raises(OSError, match="truncated"):
        wrong_images(png(64, 64)[:60], "image/png", (1, 1, 64, 64))


def load(*options: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "loadtests.load", "--run-time", "6s", *options]
    return subprocess.run(
        command,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env={**os.environ, "TRILEMMA_THREADS": "1", **environment},
    )


def test_a_server_with_little_to_do_passes() -> None:
    ended = load("--share", "0.2", "--burst", "1")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "all as it should be" in ended.stdout


def test_an_overloaded_server_refuses_and_answers_nothing_wrongly() -> None:
    ended = load("--share", "8", "--steps", "20,50", TRILEMMA_MAX_QUEUED_IMAGES="64")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "were refused" in ended.stdout
    assert "were wrong" not in ended.stdout
