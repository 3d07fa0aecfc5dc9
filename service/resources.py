"""What this process may use: processors by affinity and cgroups, memory by cgroups and rlimits, and open files.

The limits of a cgroup hold for all that lie in it, so of the process's own and its ancestors the smallest counts. Both
versions are read, also side by side: https://docs.kernel.org/admin-guide/cgroup-v2.html, cgroup-v1/memory.html there,
and scheduler/sched-bwc.html for the processors of version 1.
"""

import os
import re
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

CGROUP = re.compile(r"\d+:([^:]*):(/.*)")  # cgroups(7): controllers and path
MOUNT = re.compile(r"\S+ \S+ \S+ (\S+) (\S+) .* - (cgroup2?) .* (\S+)")  # proc_pid_mountinfo(5)
MEMORY_RLIMITS = resource.RLIMIT_AS, resource.RLIMIT_DATA


@dataclass(frozen=True)
class Resources:
    """The limits; None where nothing limits it, or nothing says so."""

    affinity: int  # processors that the process may run on
    cpu_quota: float | None  # processors' worth of time
    memory_bytes: int | None
    open_files: int | None

    @property
    def processors(self) -> float:
        return self.affinity if self.cpu_quota is None else min(self.affinity, self.cpu_quota)

    @property
    def workers(self) -> int:
        """Threads that can compute at a time without using up the quota, at least one.

        Rounded down: a process that has used up its quota is stopped, its event loop too, until the period ends.
        """
        return max(1, int(self.processors))


def read(root: Path = Path("/")) -> Resources:
    """The limits of this process, as the files under `root` (proc, and cgroups where it says they are mounted) say."""
    folders = list(_cgroups(root))
    quotas = [quota for folder in folders if (quota := _cpu_quota(folder)) is not None]
    memory = [*_memory_limits(folders), *_machine_memory(root), *_rlimits(*MEMORY_RLIMITS)]
    return Resources(
        affinity=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        cpu_quota=min(quotas, default=None),
        memory_bytes=min(memory, default=None),
        open_files=next(_rlimits(resource.RLIMIT_NOFILE), None),
    )


def resident_bytes(root: Path = Path("/")) -> int:
    """The memory that this process has now; 0 where nothing says so."""
    pages = _words(root / "proc/self/statm")[1:2]  # proc_pid_statm(5)
    return sum(map(int, pages)) * resource.getpagesize()


def _cgroups(root: Path) -> Iterator[Path]:
    """The folders of the cgroups that this process is in and of their ancestors, as far as they are mounted."""
    cgroups = [found.groups() for line in _lines(root / "proc/self/cgroup") if (found := CGROUP.fullmatch(line))]
    for line in _lines(root / "proc/self/mountinfo"):
        if not (mount := MOUNT.fullmatch(line)):
            continue
        subtree, point, kind, options = map(_unescape, mount.groups())
        mounted = set(options.split(",")) if kind == "cgroup" else {""}  # version 2 names no controllers
        for controllers, cgroup in cgroups:
            if set(controllers.split(",")) <= mounted:
                top = root / point.lstrip("/")
                yield from (top / folder for folder in _below(cgroup, subtree))


def _below(cgroup: str, subtree: str) -> list[PurePosixPath]:
    """`cgroup` and its ancestors within the subtree that is mounted, at least the top of that, relative to it."""
    path = PurePosixPath(cgroup)
    inner = path.relative_to(subtree) if path.is_relative_to(subtree) else PurePosixPath()
    return [PurePosixPath()] if ".." in inner.parts else [inner, *inner.parents]


def _cpu_quota(folder: Path) -> float | None:
    """Processors' worth of time: microseconds of running in each period."""
    version_2 = _words(folder / "cpu.max")
    version_1 = [*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us")]
    for words in (version_2, version_1):
        if len(words) == 2 and all(word.isdecimal() and int(word) for word in words):  # unlimited: "max", "-1"
            return int(words[0]) / int(words[1])
    return None


def _memory_limits(folders: list[Path]) -> Iterator[int]:
    """In bytes. Where nothing limits it version 1 has a number that no machine reaches, version 2 the word "max"."""
    for folder in folders:
        for name in ("memory.max", "memory.limit_in_bytes"):
            yield from (int(word) for word in _words(folder / name)[:1] if word.isdecimal())


def _machine_memory(root: Path) -> Iterator[int]:
    for line in _lines(root / "proc/meminfo"):
        if found := re.fullmatch(r"MemTotal:\s+(\d+) kB", line):
            yield 1024 * int(found[1])


def _rlimits(*kinds: int) -> Iterator[int]:
    yield from (soft for kind in kinds if (soft := resource.getrlimit(kind)[0]) != resource.RLIM_INFINITY)


def _unescape(field: str) -> str:
    r"""A space is written \040, and so on."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), field)


def _words(path: Path) -> list[str]:
    return [word for line in _lines(path) for word in line.split()]


def _lines(path: Path) -> list[str]:
    """None where there is no such file, or it may not be read."""
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
