"""The command `trilemma`, as a process of its own."""

import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import REPOSITORY
from tests.protocols.conftest import own
from tests.protocols.test_openai import theirs
from trilemma import Client


def trilemma(url: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "trilemma.command", "--url", url, *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".npy"])
def test_an_image_is_saved_as_the_service_made_it(url: str, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"one{suffix}"
    done = trilemma(url, "generate", "toy", "--steps", "4", "--class", "one", "--seed", "7", "-o", str(path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("toy, 4 steps, class one, seed 7: ")
    assert done.stdout.splitlines()[-1] == str(path)
    format = {".jpg": "jpeg"}.get(suffix, suffix[1:])
    assert [path.read_bytes()] == theirs(url, steps=4, class_label=1, seed=7, format=format)


def test_several_images_have_their_numbers_in_their_names(url: str, tmp_path: Path) -> None:
    done = trilemma(url, "generate", "toy", "--class", "0", "--seed", "7", "-n", "2", "-o", str(tmp_path / "some.png"))
    assert done.returncode == 0, done.stderr
    files = [(tmp_path / f"some-{i}.png").read_bytes() for i in range(2)]
    assert files == theirs(url, class_label="zero", seed=7, n=2)


def test_what_the_service_refuses_and_a_file_it_cannot_write_are_told_in_a_line(url: str, tmp_path: Path) -> None:
    refused = trilemma(url, "generate", "toy", "--steps", "1001", "-o", str(tmp_path / "never.png"))
    assert (refused.returncode, refused.stderr.strip()) == (
        1,
        "trilemma: 422 steps: toy takes at most 1000",
    )
    assert trilemma(url, "generate", "toy", "-o", "three.gif").returncode == 2
    assert not list(tmp_path.iterdir())


def test_methods_lists_what_is_served(url: str) -> None:
    listed = trilemma(url, "methods").stdout
    assert all(word in listed for word in ("toy", "4×4", "1 to 1000", "dpmpp_2m", "zero"))


def test_in_a_terminal_without_graphics_the_picture_is_shown_in_coloured_cells(url: str, tmp_path: Path) -> None:
    ours, theirs_ = pty.openpty()
    termios.tcsetwinsize(theirs_, (24, 80))
    path = tmp_path / "one.png"
    arguments = ["--url", url, "generate", "toy", "--seed", "7", "-o", str(path)]
    command = [sys.executable, "-m", "trilemma.command", *arguments]
    environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    with subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdin=theirs_, stdout=theirs_, stderr=theirs_):
        os.close(theirs_)
        shown = b""
        try:
            while part := os.read(ours, 65536):
                shown += part
        except OSError:  # the other end is closed
            pass
    os.close(ours)
    assert path.read_bytes() == own(url, "image/png", seed=7)
    assert "▀" in shown.decode()
    assert b"\x1b[38;2;" in shown


def test_likelihood_lists_the_bits_of_each_image(url: str, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 1, 4, 4)).astype(np.uint8)
    np.save(tmp_path / "two.npy", images)
    Image.fromarray(images[0, 0]).save(tmp_path / "one.png")
    paths = [str(tmp_path / name) for name in ("two.npy", "one.png")]
    done = trilemma(url, "likelihood", "toy", *paths, "--terms", "all", "--class", "one")
    assert done.returncode == 0, done.stderr
    with Client(url) as client:
        expected = client.likelihood("toy", images, terms="all", class_label="one", seed=0)
    shown = [f"{bits:.4f}" for bits in expected.bits_per_dimension]
    assert re.findall(r"\d+\.\d{4}", done.stdout)[::2] == [*shown, shown[0]]
    (tmp_path / "none.npy").write_bytes(b"none")
    for wrong in (tmp_path / "none.npy", tmp_path / "absent.png"):
        failed = trilemma(url, "likelihood", "toy", str(wrong))
        assert (failed.returncode, failed.stderr.count("\n")) == (1, 1)
