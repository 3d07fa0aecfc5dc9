"""The requests under way: each can be cancelled by its id, and is when its client goes away."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from service.engine.jobs import Job
from service.errors import Cancelled, UnknownRequest
from service.requests.quota import Caller

Left = Callable[[], Coroutine[Any, Any, None]]  # called once; what it returns ends when the client goes away


@dataclass(eq=False)
class _Entry:
    caller: Caller
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)


class InFlight:
    """Belongs to the event loop. Callers choose ids, so that several requests may have the same."""

    def __init__(self) -> None:
        self._entries: dict[str, set[_Entry]] = {}

    async def wait(self, id: str, caller: Caller, left: Left, job: asyncio.Future[Job]) -> Job:
        """The finished job. Raises Cancelled if `cancel` names the id, or the client goes away, before it ends.

        If this is cancelled or raises Cancelled, the future is cancelled too.
        """
        entry = _Entry(caller)
        self._entries.setdefault(id, set()).add(entry)
        disconnected = asyncio.create_task(left())
        cancelled = asyncio.create_task(entry.cancelled.wait())
        try:
            futures: set[asyncio.Future[Any]] = {job, disconnected, cancelled}
            await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
            if not job.done():
                raise Cancelled(id)
            return job.result()
        finally:
            for future in (job, disconnected, cancelled):
                future.cancel()
            self._entries[id].remove(entry)
            if not self._entries[id]:
                del self._entries[id]

    def cancel(self, id: str, by: Caller) -> None:
        """Cancels the caller's requests with this id, an administrator anybody's. Raises UnknownRequest."""
        own = [entry for entry in self._entries.get(id, ()) if by.admin or entry.caller == by]
        if not own:
            raise UnknownRequest(id)
        for entry in own:
            entry.cancelled.set()
