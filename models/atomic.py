"""Files that change whole or not at all, whether the process dies, the machine does or the disk is full.

Several that belong together are written into a folder beside them, which is then renamed: from there on they are the
new ones, and are moved to their places now or, after a crash, by `finish`.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

PARTIAL, COMPLETE = ".partial", ".complete"


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A folder to write files into, which replace those of their names in `folder` together once the block is left.

    An exception leaves the old ones. One process at a time may write.
    """
    folder.mkdir(parents=True, exist_ok=True)
    finish(folder)
    partial = folder / PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        for path in partial.iterdir():
            to_disk(path)
        to_disk(partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    partial.rename(folder / COMPLETE)
    to_disk(folder)
    finish(folder)


def finish(folder: Path) -> None:
    """Moves the files of a complete replacement that was cut off to their places; any process may."""
    complete = folder / COMPLETE
    if not complete.exists():
        return
    for path in sorted(complete.iterdir()):
        with contextlib.suppress(FileNotFoundError):  # another process moved it
            path.rename(folder / path.name)
    to_disk(folder)
    with contextlib.suppress(OSError):  # another process took it away, or has the next one ready
        complete.rmdir()


def versions(folder: Path, names: Iterable[str]) -> list[tuple[int, int]]:
    """What changes when one of the files is replaced: for who reads several, to see that they are of one time.

    Raises FileNotFoundError if one is missing.
    """
    finish(folder)
    stats = [(folder / name).stat() for name in names]
    return [(stat.st_ino, stat.st_mtime_ns) for stat in stats]


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Has `write` make a file beside `path`, and renames it."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        write(partial)
        to_disk(partial)
        partial.rename(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    to_disk(path.parent)


def to_disk(path: Path) -> None:
    """Returns once a file's content, or a folder's entries, outlast a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
