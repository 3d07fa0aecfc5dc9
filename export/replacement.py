"""Replaces a folder that this program wrote by a new one, and no other folder."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from models import atomic


class NotOurs(ValueError):
    """The folder has what this program did not write; the message names it."""


@contextlib.contextmanager
def replacing(target: Path, is_own: Callable[[Path], bool]) -> Iterator[Path]:
    """A new folder to fill, which takes the place of `target` after the block; an exception keeps the old one.

    Raises NotOurs as `check` does, or if another process replaces it now.
    """
    check(target, is_own)
    with _alone(target.with_name(f".{target.name}.partial")) as partial:
        old = _old(target)
        if old.exists() and not target.exists():  # a swap was cut off between its two renames
            old.rename(target)
        try:
            yield partial
            check(target, is_own)  # it may have changed meanwhile
            swap(partial, target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


@contextlib.contextmanager
def _alone(partial: Path) -> Iterator[Path]:
    """The folder, empty, and held for this process: the lock ends with it, however it ends. Raises NotOurs."""
    partial.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = os.path.samestat(os.fstat(descriptor), partial.stat())  # else another process was done just now
        except (BlockingIOError, FileNotFoundError):
            held = False
        if not held:
            raise NotOurs(f"{partial}: another process is writing there: wait for it, or choose another folder")
        for left in partial.iterdir():
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        yield partial
    finally:
        os.close(descriptor)


def check(target: Path, is_own: Callable[[Path], bool]) -> None:
    """Raises NotOurs unless `target` is absent, or a folder of which each entry is one of ours."""
    if not target.exists():
        return
    if not target.is_dir():
        raise NotOurs(f"{target}: a file is there: choose another folder")
    foreign = sorted(path.name for path in target.iterdir() if not is_own(path))
    if foreign:
        names = ", ".join(foreign[:3]) + (", …" if len(foreign) > 3 else "")
        raise NotOurs(f"{target}: it would be replaced, and has files of others ({names}): choose another folder")


def swap(new: Path, target: Path) -> None:
    """Puts `new` in the place of `target`. The old one is deleted only once the new one stands there, on the disk."""
    for path in (*new.rglob("*"), new):
        atomic.to_disk(path)
    old = _old(target)
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    new.rename(target)
    atomic.to_disk(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _old(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")
