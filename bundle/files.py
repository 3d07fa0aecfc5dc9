"""Reads the files of a bundle: regular ones, inside the bundles' folder, no larger than they say they are."""

import hashlib
import os
import stat
from io import BufferedReader
from pathlib import Path


class BundleError(Exception):
    """A bundle that cannot be served; the message names the file, within the bundles' folder, and what is wrong."""


def open_regular(path: Path, root: Path) -> BufferedReader:
    """The file for reading. Raises BundleError unless it is a regular file that lies in `root`, links followed.

    A FIFO or a device would block or never end, so nothing is read before the kind of the file is known.
    """
    try:
        real = path.resolve(strict=True)
        if not real.is_relative_to(root.resolve(strict=True)):
            raise BundleError(f"{name(path)}: it leads out of the bundles' folder")
        stream = os.fdopen(os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
    except OSError as error:
        raise BundleError(f"{name(path)}: {error.strerror}") from error
    except RuntimeError as error:
        raise BundleError(f"{name(path)}: its links lead in a circle") from error
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise BundleError(f"{name(path)}: it is no regular file")
    return stream


def read(path: Path, root: Path, max_bytes: int) -> bytes:
    """All of a small file. Raises BundleError."""
    with open_regular(path, root) as stream:
        content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise BundleError(f"{name(path)}: it is larger than {max_bytes} bytes")
    return content


def check(path: Path, root: Path, sha256: str, size: int) -> None:
    """Raises BundleError unless the file has this digest, in hexadecimal, and this size in bytes."""
    with open_regular(path, root) as stream:
        actual = os.fstat(stream.fileno()).st_size
        if actual != size:
            raise BundleError(f"{name(path)}: it has {actual} bytes, the manifest says {size}")
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != sha256:
        raise BundleError(f"{name(path)}: SHA-256 is {digest}, the manifest says {sha256}")


def name(path: Path) -> str:
    """A file as a message names it: without the folders above its bundle's."""
    return f"{path.parent.name}/{path.name}"
