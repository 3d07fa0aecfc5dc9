"""How many connections a server has at a time, and which one makes room for a new one."""

import asyncio
import time

import structlog

log = structlog.get_logger()

GRACE_S = 1.0  # in which a connection that waits for its client does not make room


class ConnectionLimit:
    """At most `most` connections are served, and half as many again are told that there are too many.

    One that comes when there are `most` takes the place of that which has waited longest for its client: for a head, a
    body, or the next request. If none has for GRACE_S, the new one is a surplus one. It belongs to the event loop.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.open = 0
        self.surplus: set[asyncio.Transport] = set()
        self._waiting: dict[asyncio.Transport, float] = {}  # since when, the longest first
        self._reached = False

    def opened(self, transport: asyncio.Transport) -> None:
        self.open += 1
        self.wait(transport)
        if self.open <= self.most:
            return
        if not self._reached:
            self._reached = True
            log.warning("the limit of connections is reached", limit=self.most, waiting_for_clients=len(self._waiting))
        longest, since_s = next(iter(self._waiting.items()))
        if time.monotonic() - since_s >= GRACE_S:
            self._drop(longest)
        elif self.open > self.most * 3 // 2:
            self._drop(transport)
        else:
            self.surplus.add(transport)

    def wait(self, transport: asyncio.Transport) -> None:
        """It waits for its client, from now on."""
        self._waiting.pop(transport, None)
        self._waiting[transport] = time.monotonic()

    def work(self, transport: asyncio.Transport) -> None:
        """It has sent a request, and waits for the server."""
        self._waiting.pop(transport, None)

    def closed(self, transport: asyncio.Transport) -> None:
        self.work(transport)
        self.surplus.discard(transport)
        self.open -= 1
        if self.open <= self.most:
            self.surplus.clear()
        self._reached = self._reached and self.open > self.most * 9 // 10

    def _drop(self, transport: asyncio.Transport) -> None:
        self.work(transport)
        transport.abort()
