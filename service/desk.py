"""The requests under way: each can be cancelled by its id, and is when its client goes away."""

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

from starlette.types import Receive

from service.errors import Cancelled, UnknownRequest

T = TypeVar("T")


class Desk:
    """Belongs to the event loop. Callers choose ids, so that several requests may have the same."""

    def __init__(self) -> None:
        self._tasks: dict[str, set[asyncio.Task[None]]] = {}

    async def attend(self, id: str, receive: Receive, work: Coroutine[None, None, T]) -> T:
        """What `work` gives. Raises Cancelled if `cancel` names it, or its client disconnects, before it has ended."""
        task = asyncio.ensure_future(work)
        gone = asyncio.create_task(_disconnected(receive))
        self._tasks.setdefault(id, set()).add(gone)
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise Cancelled(id)
            return task.result()
        finally:
            for each in (task, gone):
                each.cancel()
            self._tasks[id].discard(gone)
            if not self._tasks[id]:
                del self._tasks[id]

    def cancel(self, id: str) -> None:
        """Cancels the requests with this id. Raises UnknownRequest if there is none."""
        if id not in self._tasks:
            raise UnknownRequest(id)
        for gone in self._tasks[id]:
            gone.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
