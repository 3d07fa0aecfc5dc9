"""Replaces a folder that this program wrote by a new one, and no other folder."""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from models import atomic


class NotOurs(ValueError):
    """The folder has what this program did not write; the message names it."""


@contextlib.contextmanager
def replacing(target: Path, is_own: Callable[[Path], bool]) -> Iterator[Path]:
    """A new folder to fill, which takes the place of `target` after the block; an exception keeps the old one.

    Raises NotOurs as `check` does.
    """
    check(target, is_own)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        check(target, is_own)  # it may have changed meanwhile
        swap(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    new.rename(target)
    atomic.to_disk(target.parent)
    shutil.rmtree(old, ignore_errors=True)
