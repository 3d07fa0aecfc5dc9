"""Notices when the bundle folder has changed, by looking at it now and then: that works on every file system."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import structlog

log = structlog.get_logger()

Fingerprint = frozenset[tuple[Path, int, int]]


def fingerprint(folder: Path) -> Fingerprint:
    """Path, size and time of change of every file of every bundle."""
    files = set()
    for path in folder.glob("[!.]*/*"):  # a hidden folder is an export under way
        with suppress(OSError):  # gone since
            stat = path.stat()
            files.add((path, stat.st_size, stat.st_mtime_ns))
    return frozenset(files)


async def follow(
    folder: Path, loaded: Callable[[], Fingerprint], reload: Callable[[], Awaitable[None]], every_s: float
) -> None:
    """Reloads whenever the folder differs from what was `loaded`, and has not changed since the look before.

    0 seconds: never.
    """
    before = await asyncio.to_thread(fingerprint, folder)
    while every_s:
        await asyncio.sleep(every_s)
        now = await asyncio.to_thread(fingerprint, folder)
        if now == before and now != loaded():
            log.info("the bundle folder has changed", folder=str(folder))
            try:
                await reload()
            except Exception as error:  # what is served goes on
                log.error("reloading failed", exc_info=error)
        before = now
