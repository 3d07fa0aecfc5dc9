"""Reads the files of a bundle: regular ones, inside the bundles' folder, of the size and digest they should have."""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path


class BundleError(Exception):
    """A bundle that cannot be served; the message names the file, within the bundles' folder, and what is wrong."""


@contextmanager
def open_regular(path: Path, root: Path) -> Iterator[BufferedReader]:
    """The file for reading. Raises BundleError unless it is a regular file that lies in `root`, links followed.

    A FIFO or a device would block or never end, and opening a device may be an action: the file's kind is known first.
    """
    try:
        real = path.resolve(strict=True)
        if not real.is_relative_to(root.resolve(strict=True)):
            raise BundleError(f"{name(path)}: it leads out of the bundles' folder")
        _require_regular(path, real.lstat())
        descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as stream:
            _require_regular(path, os.fstat(descriptor))
            yield stream
    except OSError as error:
        raise BundleError(f"{name(path)}: {error.strerror or type(error).__name__}") from error
    except RuntimeError as error:
        raise BundleError(f"{name(path)}: its links lead in a circle") from error


def read(path: Path, root: Path, max_bytes: int) -> bytes:
    """All of a file. Raises BundleError if it is larger than `max_bytes`, before it is read."""
    with open_regular(path, root) as stream:
        size = os.fstat(stream.fileno()).st_size
        content = stream.read(max_bytes + 1) if size <= max_bytes else b""
    if max(size, len(content)) > max_bytes:
        raise BundleError(f"{name(path)}: it is larger than {max_bytes} bytes")
    return content


def read_checked(path: Path, root: Path, sha256: str, size: int) -> bytes:
    """All of a file of this digest and size. Raises BundleError."""
    content = read(path, root, size)
    _require_digest(path, hashlib.sha256(content).hexdigest(), sha256)
    return content


def check(path: Path, root: Path, sha256: str, size: int) -> None:
    """Raises BundleError unless the file has this digest, in hexadecimal, and this size in bytes."""
    with open_regular(path, root) as stream:
        actual = os.fstat(stream.fileno()).st_size
        if actual != size:
            raise BundleError(f"{name(path)}: it has {actual} bytes, the manifest says {size}")
        _require_digest(path, hashlib.file_digest(stream, "sha256").hexdigest(), sha256)


def name(path: Path) -> str:
    """A file as a message names it: without the folders above its bundle's."""
    return f"{shown(path.parent.name)}/{shown(path.name)}"


def shown(name: str) -> str:
    """A file's name with escapes for what cannot be printed, or is no text: no answer could hold it."""
    return name if name.isprintable() else ascii(name)[1:-1]


def _require_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{name(path)}: it is no regular file")


def _require_digest(path: Path, actual: str, sha256: str) -> None:
    if actual != sha256:
        raise BundleError(f"{name(path)}: SHA-256 is {actual}, the manifest says {sha256}")
