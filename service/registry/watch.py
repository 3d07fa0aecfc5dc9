"""Notices when the bundle folder has changed, by a look at it now and then: that works on every file system."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from service.registry.registry import Service

log = structlog.get_logger()

Look = frozenset[tuple[Path, int, int]]


def look(folder: Path) -> Look:
    """Path, size and time of change of every file of every bundle."""
    found = set()
    for path in folder.glob("[!.]*/*"):  # a hidden folder is an export under way
        with suppress(OSError):  # gone since
            stat = path.stat()
            found.add((path, stat.st_size, stat.st_mtime_ns))
    return frozenset(found)


async def follow(service: "Service", every_s: float) -> None:
    """Reloads whenever the folder is unlike what was loaded, and the same as a look before; 0 seconds: never."""
    folder = service.settings.bundles
    before = await asyncio.to_thread(look, folder)
    while every_s:
        await asyncio.sleep(every_s)
        now = await asyncio.to_thread(look, folder)
        if now == before and now != service.seen:
            log.info("the bundle folder has changed", folder=str(folder))
            try:
                await asyncio.to_thread(service.reload)
            except Exception as error:  # what is served goes on
                log.error("reloading failed", exc_info=error)
        before = now
