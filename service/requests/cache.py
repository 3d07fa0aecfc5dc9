"""Work that need not be done twice: finished files by ETag, and one job for identical requests in flight."""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable

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


class Coalescer:
    """Singleflight: identical requests share the first one's job, which is cancelled when the last of them leaves."""

    def __init__(self) -> None:
        self._jobs: dict[Hashable, asyncio.Future[Job]] = {}
        self._waiting: Counter[asyncio.Future[Job]] = Counter()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._jobs

    def join(self, key: Hashable, submit: Callable[[], asyncio.Future[Job]]) -> asyncio.Future[Job]:
        """A future of one caller's own: of the job under way with this key, or else of the one that `submit` starts.

        Raises at once what `submit` raises; then nobody shares it.
        """
        if key not in self._jobs:
            job = submit()
            self._jobs[key] = job
            job.add_done_callback(lambda _: self._forget(key, job))
        job = self._jobs[key]
        self._waiting[job] += 1
        own = asyncio.shield(job)  # a caller that goes away leaves the others theirs
        own.add_done_callback(lambda _: self._leave(key, job))
        return own

    def _leave(self, key: Hashable, job: asyncio.Future[Job]) -> None:
        self._waiting[job] -= 1
        if not self._waiting[job]:
            del self._waiting[job]
            self._forget(key, job)
            job.cancel()

    def _forget(self, key: Hashable, job: asyncio.Future[Job]) -> None:
        if self._jobs.get(key) is job:
            del self._jobs[key]
