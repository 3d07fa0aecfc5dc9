"""The requests under way: each can be cancelled by its id, and is when its client goes away."""

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

from starlette.types import Receive

from service.errors import Cancelled, UnknownRequest
from service.http.auth import Caller

T = TypeVar("T")


class Desk:
    """Belongs to the event loop. Callers choose ids, so that several requests may have the same."""

    def __init__(self) -> None:
        self._tasks: dict[str, dict[asyncio.Task[None], Caller]] = {}

    async def attend(self, id: str, caller: Caller, receive: Receive, work: Coroutine[None, None, T]) -> T:
        """What `work` gives. Raises Cancelled if `cancel` names it, or its client disconnects, before it has ended."""
        task = asyncio.ensure_future(work)
        gone = asyncio.create_task(_disconnected(receive))
        self._tasks.setdefault(id, {})[gone] = caller
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise Cancelled(id)
            return task.result()
        finally:
            for each in (task, gone):
                each.cancel()
            del self._tasks[id][gone]
            if not self._tasks[id]:
                del self._tasks[id]

    def cancel(self, id: str, by: Caller) -> None:
        """Cancels the caller's requests with this id, an administrator anybody's. Raises UnknownRequest."""
        own = [gone for gone, caller in self._tasks.get(id, {}).items() if by.admin or caller == by]
        if not own:
            raise UnknownRequest(id)
        for gone in own:
            gone.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
