"""Work that need not be done twice: finished files by ETag, and one computation for identical requests in flight."""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Coroutine, Hashable

from service.engine.jobs import Job

Files = list[bytes]


class Cache:
    """The files of answers by ETag, the least recently used forgotten first; it belongs to the event loop."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._entries: OrderedDict[str, Files] = OrderedDict()

    def get(self, tag: str) -> Files | None:
        if tag in self._entries:
            self._entries.move_to_end(tag)
        return self._entries.get(tag)

    def put(self, tag: str, files: Files) -> None:
        size = sum(map(len, files))
        if tag in self._entries or size > self.max_bytes:
            return
        self._entries[tag] = files
        self.bytes += size
        while self.bytes > self.max_bytes:
            _, dropped = self._entries.popitem(last=False)
            self.bytes -= sum(map(len, dropped))


class Flights:
    """Identical requests share the first one's job; it is cancelled when the last of them is."""

    def __init__(self) -> None:
        self._tasks: dict[Hashable, asyncio.Task[Job]] = {}
        self._waiting: Counter[asyncio.Task[Job]] = Counter()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._tasks

    async def run(self, key: Hashable, start: Callable[[], Coroutine[None, None, Job]]) -> Job:
        """The job that `start` runs, or the one under way with this key."""
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(start())
        task = self._tasks[key]
        self._waiting[task] += 1
        try:
            return await asyncio.shield(task)  # one that goes away leaves the others theirs
        finally:
            self._waiting[task] -= 1
            if not self._waiting[task]:
                del self._waiting[task]
                task.cancel()
                self._forget(key, task)
            elif task.done():
                self._forget(key, task)

    def _forget(self, key: Hashable, task: asyncio.Task[Job]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]
