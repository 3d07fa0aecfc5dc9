"""Options of `./run import` that name what is no such thing: one short line, before anything is read for long."""

import os
from pathlib import Path

import pytest

from importers import __main__ as command
from importers import cards, reference
from importers.problems import LONGEST, ImportProblem
from importers.recognise import recognise
from tests.importers import parity


def run(*options: object) -> str:
    return command.run(command.parser().parse_args([str(parity.path("ddim_gray28_model.ckpt")), *map(str, options)]))


@pytest.mark.parametrize("name", ["../x", "a/b", "auto", "Ä", "x" * 65, "a\nb", ".x", " "])
def test_a_name_that_nobody_can_ask_for_is_refused_at_once(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImportProblem, match="--name"):
        run("-o", tmp_path / "bundle", "--name", name)
    assert list(tmp_path.iterdir()) == []


def test_what_would_never_end_is_no_file(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo.json"
    os.mkfifo(fifo)
    for read in (recognise, cards.load):
        for path in (fifo, Path("/dev/zero")):
            with pytest.raises(ImportProblem, match=r"regular file|begins with"):
                read(path)
    with pytest.raises(ImportProblem, match="is no file"):
        run("--reference", fifo)


@pytest.mark.parametrize("name", ["card.json", "card.toml"])
@pytest.mark.parametrize("content", ["[" * 100_000, "a = " + "[" * 100_000, "\xff", "\0", '{"format": "\x1b[31m"}'])
def test_a_card_that_is_none_is_one_short_line(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="latin-1")
    with pytest.raises(ImportProblem) as refused:
        cards.load(tmp_path / name)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) <= LONGEST + 1


def test_a_message_may_have_anything_of_the_file_and_is_a_short_line() -> None:
    assert str(ImportProblem("a\n  weight \x1b[31mof\x07")) == "a weight \\x1b[31mof\\x07"
    assert len(str(ImportProblem("x" * 10**6))) == LONGEST + 1


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY\x01\0", b"text"])
def test_a_reference_that_is_no_archive_of_arrays_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "reference.npz"
    path.write_bytes(content)
    with pytest.raises(ImportProblem, match=r"reference\.npz: not a whole \.npz file"):
        reference.read(path)
