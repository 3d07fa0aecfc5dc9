"""Notices when the bundle folder has changed, by looking at it now and then: that works on every file system."""

from contextlib import suppress
from pathlib import Path

Fingerprint = frozenset[tuple[Path, int, int]]


def fingerprint(folder: Path) -> Fingerprint:
    """Path, size and time of change of every file of every bundle."""
    files = set()
    for path in folder.glob("[!.]*/*"):  # a hidden folder is an export under way
        with suppress(OSError):  # gone since
            stat = path.stat()
            files.add((path, stat.st_size, stat.st_mtime_ns))
    return frozenset(files)


class Watch:
    """Tells when the folder differs from what was `loaded`, and has not changed since the look before."""

    def __init__(self) -> None:
        self.loaded: Fingerprint = frozenset()
        self._before: Fingerprint | None = None

    def is_due(self, now: Fingerprint) -> bool:
        settled, self._before = now == self._before, now
        return settled and now != self.loaded
