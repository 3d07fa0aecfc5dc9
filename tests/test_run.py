"""`./run` with a stand-in for Python: which environment a command gets, and what its first set-up shows."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

# Makes environments of itself; as pip it waits for the file `go`, and fails if that has a text; as a module it says who
# it is.
PYTHON = """#!/bin/sh
case "$*" in
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    "-m pip "*)
        [ -d "$TMPDIR" ] || exit 1
        until [ -e "$GO" ]; do sleep 0.1; done
        [ ! -s "$GO" ] || { cat "$GO" >&2; exit 1; }
        ;;
    "-m "*) echo "$0 $*" ;;
esac
"""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with `run` and its locks alone."""
    shutil.copytree(REPOSITORY / "locks", tmp_path / "locks")
    shutil.copy(REPOSITORY / "run", tmp_path / "run")
    (tmp_path / "path").mkdir()
    for name in ("python3.11", "python3"):
        (tmp_path / "path" / name).write_text(PYTHON)
        (tmp_path / "path" / name).chmod(0o755)
    (tmp_path / "path" / "sleep").write_text("#!/bin/sh\nexec /bin/sleep 0.05\n")  # nobody waits
    (tmp_path / "path" / "sleep").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:{os.environ['PATH']}")
    monkeypatch.setenv("GO", str(tmp_path / "go"))
    return tmp_path


def ran(tree: Path, arguments: Sequence[str]) -> str:
    """What the command became: an environment's Python and what it was given."""
    (tree / "go").touch()
    answer = subprocess.run([tree / "run", *arguments], capture_output=True, text=True, check=True)
    return answer.stdout.strip().removeprefix(f"{tree}/")


@pytest.mark.parametrize(
    ("arguments", "module"),
    [
        (["train", "--help"], "models.train"),
        (["train", "--family", "vdm", "-h"], "models.train"),
        (["export", "--help"], "export"),
        (["export", "bundles/x", "--target", "cuda", "--help"], "export"),
        (["evaluate", "--help"], "evaluate"),
        (["fit", "--help"], "fit"),
    ],
)
def test_help_takes_the_services_environment_where_the_large_one_is_not_made(
    tree: Path, arguments: list[str], module: str
) -> None:
    options = " ".join(arguments[1:])
    assert ran(tree, arguments) == f".venv-serve/bin/python -m {module} {options}"
    assert sorted(path.name for path in tree.glob(".venv-*/")) == [".venv-serve"]


def test_a_command_takes_the_environment_that_it_needs_and_help_too_once_that_is_made(tree: Path) -> None:
    assert ran(tree, ["train", "--data", "x"]) == ".venv-dev/bin/python -m models.train --data x"
    assert ran(tree, ["train", "--help"]) == ".venv-dev/bin/python -m models.train --help"
    assert ran(tree, ["serve"]) == ".venv-serve/bin/python -m service"
    assert ran(tree, ["export", "b", "--target=cuda"]) == ".venv-gpu/bin/python -m export b --target=cuda"
    assert not list(tree.glob(".venv-*/tmp"))


def test_a_first_set_up_says_how_far_it_is_until_it_is_done(tree: Path) -> None:
    command = [tree / "run", "serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert re.match(r"setting up .*\.venv-serve", process.stderr.readline())
        for _ in range(2):
            assert re.fullmatch(r"  \d+ MB\n", process.stderr.readline())
        (tree / "go").touch()
        assert process.stdout.read() == f"{tree}/.venv-serve/bin/python -m service\n"
    assert process.returncode == 0


def test_a_set_up_that_fails_ends_at_once_and_leaves_nothing_that_holds_its_output(tree: Path) -> None:
    (tree / "go").write_text("no such package\n")
    with subprocess.Popen(
        [tree / "run", "serve"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        # To the end of the output first, so that the shell is a zombie until then, as `kill -0` sees it.
        *_, line = process.stderr.read().splitlines()
    assert (line, process.returncode) == ("no such package", 1)
    assert not (tree / ".venv-serve" / "stamp").exists()


def test_no_file_takes_the_place_of_a_stream_that_is_closed(tree: Path) -> None:
    (tree / "go").touch()
    list_open = '#!/bin/sh\nls -l /dev/fd/ >"$GO.open" 2>/dev/null\n'
    ran(tree, ["serve"])
    (tree / ".venv-serve" / "bin" / "python").write_text(list_open)
    subprocess.run(["sh", "-c", 'exec "$0" serve <&- >&- 2>&-', tree / "run"], check=True)
    listed = (tree / "go.open").read_text()
    assert [number for number in "012" if re.search(rf" {number} -> (/dev/null|.*go\.open)$", listed, re.M)] == list(
        "012"
    )
