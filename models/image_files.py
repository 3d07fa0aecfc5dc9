"""Finds the image files of a data set, `SPLIT/CLASS/…/NAME` in a folder or a zip, and leaves out what is none."""

import re
import stat
import string
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import count
from pathlib import Path, PurePath, PurePosixPath
from typing import NamedTuple

from models.failures import DataError
from models.pixels import REFUSED_SUFFIXES, SUFFIXES

SPLITS = ("train", "test")
MAX_FILE_BYTES = 2**27
MAX_CLASS_NAME = 100  # characters
MAX_LINKS = 10_000  # to folders
# What Windows, macOS, Synology, QNAP, Linux and Python leave in folders, in lower case; what begins with "." besides.
LITTER = {
    "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin", "system volume information",
    "__macosx", "icon\r", "@eadir", "#recycle", "#snapshot", "@recycle", "lost+found", "__pycache__",
}  # fmt: skip
HIDDEN, NO_FILE, NO_CLASS = "hidden or of the operating system", "links or devices", "in no class's folder"
UNNAMEABLE = {"Cc", "Cs", "Zl", "Zp"}  # Unicode's controls, halves of surrogates, and breaks


class File(NamedTuple):
    """A file of a data set: where it lies below the folder of the splits, and what an error calls it."""

    path: PurePath
    name: str
    size: int  # bytes
    regular: bool
    content: Callable[[], bytes]

    @property
    def split(self) -> str:
        return self.path.parts[0]

    @property
    def class_name(self) -> str:
        """Its folder's name, composed (NFC), so that macOS's é and a caller's are one."""
        return unicodedata.normalize("NFC", self.path.parts[1])

    def reason_to_leave_out(self) -> str | None:
        """None for an image."""
        suffix = self.path.suffix.lower()
        if any(part.startswith((".", "~$")) or part.lower() in LITTER for part in self.path.parts):
            return HIDDEN
        if not self.regular:
            return NO_FILE
        if suffix not in SUFFIXES | REFUSED_SUFFIXES:
            return suffix if re.fullmatch(r"\.[a-z0-9]{1,8}", suffix) else "without a suffix that is known"
        return NO_CLASS if len(self.path.parts) < 3 else None

    def read(self) -> bytes:
        """Raises DataError for a file that is far too large for an image."""
        if self.size > MAX_FILE_BYTES:
            raise DataError(f"{self.name}: {self.size:,} bytes are more than {MAX_FILE_BYTES:,}: make it smaller")
        return self.content()


class Selection(NamedTuple):
    """The images of a split, the classes of all splits, and how many files were left out, by why."""

    files: list[File]
    classes: list[str]
    left_out: dict[str, int]


def in_folder(folder: Path) -> list[File]:
    """The files of both splits in the order of their paths. Links are followed, but not back to where they are.

    Raises DataError where folders lie in each other without end, or nearly so.
    """
    links = count()
    try:
        paths = sorted(path for split in SPLITS for path in _walk(folder / split, frozenset(), links))
    except RecursionError as error:
        raise DataError(f"{folder}: its folders lie too deep in each other") from error
    return [_of_folder(folder, path) for path in paths]


def in_zip(source: Path, archive: zipfile.ZipFile) -> list[File]:
    """The files of both splits in the order of their names; of two of one name the later counts, as for `unzip`.

    Nothing is written to the disk. Raises DataError for a name that leads out of the archive.
    """
    members = {info.filename: info for info in archive.infolist() if not info.is_dir()}
    files = [_of_zip(source, archive, members[name]) for name in sorted(members)]
    root = _root([file.path for file in files if file.reason_to_leave_out() is None])
    inside = [file._replace(path=file.path.relative_to(root)) for file in files if file.path.is_relative_to(root)]
    return [file for file in inside if file.split in SPLITS]


def select(source: Path, split: str, files: list[File]) -> Selection:
    """The images of `split`. A class that one split lacks does not shift the labels of the others.

    Raises DataError if there are none, for an image of a kind that cannot be read, and for a class without a name that
    a request can carry.
    """
    left_out: Counter[str] = Counter()
    images = []
    for file in files:
        if (reason := file.reason_to_leave_out()) is None:
            images.append(file)
        elif file.split == split:
            left_out[reason] += 1
    chosen = [file for file in images if file.split == split]
    if not chosen:
        others = f" ({counts(left_out)})" if left_out else ""
        raise DataError(f"{source}: no idx files, and no images as {split}/CLASS/NAME.png{others}")
    for file in chosen:
        if file.path.suffix.lower() in REFUSED_SUFFIXES:
            raise DataError(f"{file.name}: images of this kind cannot be read: save it as PNG or JPEG")
    classes = {file.class_name: file for file in images}
    for name, file in classes.items():
        _check_class_name(name, file)
    return Selection(chosen, sorted(sorted(classes), key=natural_order), dict(left_out))


def counts(left_out: Mapping[str, int]) -> str:
    """`left_out` of a selection in words."""
    return "left out: " + ", ".join(f"{count:,} {reason}" for reason, count in sorted(left_out.items()))


def natural_order(name: str) -> list[tuple[str, int]]:
    """A key that sorts 2 before 10 and all else by code point, as `sorted` does."""
    runs = re.findall("[0-9]+|.", name, re.DOTALL)
    return [("0", int(run)) if run[0] in string.digits else (run, 0) for run in runs]


def _check_class_name(name: str, file: File) -> None:
    """Any text that JSON carries and a reader sees whole names a class."""
    if len(name) > MAX_CLASS_NAME or name != name.strip() or {unicodedata.category(c) for c in name} & UNNAMEABLE:
        raise DataError(
            f"{file.name}: its class, {name[:MAX_CLASS_NAME]!r}, cannot be named in a request: rename the folder "
            f"(1 to {MAX_CLASS_NAME} characters, no control characters, no space at either end)"
        )


def _walk(folder: Path, above: frozenset[Path], links: Iterator[int]) -> Iterator[Path]:
    """All that is no folder, below; `above` are the real paths of the folders on the way, and `links` counts links."""
    real = folder.resolve()
    if real in above or not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.is_dir():
            if path.is_symlink() and next(links) >= MAX_LINKS:  # ten folders that lead to each other: millions of ways
                raise DataError(f"{path}: more than {MAX_LINKS:,} links to folders: they lead to each other")
            yield from _walk(path, above | {real}, links)
        else:
            yield path


def _of_folder(folder: Path, path: Path) -> File:
    regular = path.is_file()
    size = path.stat().st_size if regular else 0
    return File(path.relative_to(folder), str(path), size, regular, path.read_bytes)


def _of_zip(source: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> File:
    path = PurePosixPath(info.filename.replace("\\", "/"))  # some archivers of Windows write these
    name = f"{source}:{info.filename}"
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{name}: a path that leads out of the archive: it is not to be trusted")
    kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archiver says none
    return File(path, name, info.file_size, kind in (0, stat.S_IFREG), partial(archive.read, info))


def _root(paths: list[PurePath]) -> PurePath:
    """The folder of an archive that has the splits: its top, or the nearest one above all images."""
    if not paths:
        return PurePosixPath()
    common = paths[0].parent
    while not all(path.is_relative_to(common) for path in paths):
        common = common.parent
    for root in (common, *common.parents):
        below = [path.relative_to(root).parts for path in paths]
        if any(parts[0] in SPLITS and len(parts) >= 3 for parts in below):
            return root
    return PurePosixPath()
