"""A folder is replaced by one process at a time, and whenever that is killed, the old one or the new one is there."""

import os
import signal
from pathlib import Path

import pytest

from export import replacement
from export.replacement import NotOurs, replacing


def any_file(_: Path) -> bool:
    return True


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "old").touch()
    return tmp_path / "bundle"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_of_two_at_once_the_second_is_refused_and_the_first_is_whole(target: Path) -> None:
    with replacing(target, any_file) as partial:
        (partial / "new").touch()
        with pytest.raises(NotOurs, match="another process is writing there"), replacing(target, any_file):
            pass
        assert names(partial) == ["new"]
    assert names(target) == ["new"]
    assert names(target.parent) == ["bundle"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, FileNotFoundError, BlockingIOError])
def test_what_ends_it_early_leaves_the_old_one_alone(target: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), replacing(target, any_file) as partial:  # noqa: PT012
        (partial / "new").touch()
        raise error
    assert names(target) == ["old"]
    assert names(target.parent) == ["bundle"]


@pytest.mark.parametrize("renames", range(3))
def test_one_that_was_killed_at_any_rename_leaves_one_of_them_to_the_next(
    target: Path, renames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = 0
    rename = Path.rename

    def counted(path: Path, other: Path) -> Path:
        nonlocal done
        if done == renames:
            os.kill(os.getpid(), signal.SIGKILL)
        done += 1
        return rename(path, other)

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(Path, "rename", counted)
        with replacing(target, any_file) as partial:
            (partial / "new").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    with pytest.raises(KeyError), replacing(target, any_file):
        raise KeyError
    assert names(target) == (["old"] if renames < 2 else ["new"])
    with replacing(target, any_file) as partial:
        assert names(partial) == []
        (partial / "newer").touch()
    assert (names(target), names(target.parent)) == (["newer"], ["bundle"])


def test_a_link_in_the_way_is_not_followed(target: Path) -> None:
    (target.parent / "others").mkdir()
    (target.parent / "others" / "file").touch()
    (target.parent / ".bundle.partial").symlink_to("others")
    with pytest.raises(OSError, match="partial"), replacing(target, any_file):
        pass
    assert names(target.parent / "others") == ["file"]
    assert replacement.check(target, any_file) is None
