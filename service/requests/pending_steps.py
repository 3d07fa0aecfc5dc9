"""The steps that a stream has yet to send, in bounded memory however slowly its client reads."""

import asyncio
from collections import OrderedDict, deque
from dataclasses import replace

from service.engine.jobs import Progress
from service.engine.runtime import Array

MAX_STEPS = 1024  # about 200 KB, and more than a request has images; a client that reads is behind by a few
MAX_PREVIEW_BYTES = 2**20


class PendingSteps:
    """A queue from the engine to one stream; it belongs to the event loop.

    A later step of an image says all that an earlier one did. So where there is no room the oldest previews are dropped
    first, then the oldest steps but each image's last. The end always comes.
    """

    def __init__(self) -> None:
        self._steps: deque[Progress] = deque()  # without their previews
        self._previews: OrderedDict[tuple[int, int], Array] = OrderedDict()  # by image and step
        self._preview_bytes = 0
        self._last: dict[int, int] = {}  # step by image
        self._ended = False
        self._changed = asyncio.Event()

    def put(self, progress: Progress) -> None:
        self._last[progress.image] = progress.index
        if len(self._steps) == MAX_STEPS:
            place = next(i for i, step in enumerate(self._steps) if step.index != self._last[step.image])
            self._take_preview(self._steps[place])
            del self._steps[place]
        self._steps.append(replace(progress, preview=None))
        if progress.preview is not None:
            self._previews[progress.image, progress.index] = progress.preview
            self._preview_bytes += progress.preview.nbytes
            while self._preview_bytes > MAX_PREVIEW_BYTES and len(self._previews) > 1:
                _, dropped = self._previews.popitem(last=False)
                self._preview_bytes -= dropped.nbytes
        self._changed.set()

    def end(self) -> None:
        """There are no more steps."""
        self._ended = True
        self._changed.set()

    async def get(self) -> Progress | None:
        """The oldest step, waiting for one; None after the last."""
        while not self._steps:
            if self._ended:
                return None
            self._changed.clear()
            await self._changed.wait()
        step = self._steps.popleft()
        return replace(step, preview=self._take_preview(step))

    def _take_preview(self, step: Progress) -> Array | None:
        preview = self._previews.pop((step.image, step.index), None)
        self._preview_bytes -= 0 if preview is None else preview.nbytes
        return preview
