"""How many requests begin in one turn of the event loop.

Between two turns the loop reads from its sockets. Without this, n requests that come at once are one turn of n times
the cost of a request, and a probe that comes a moment later waits for all of them.
"""

import asyncio
from collections import deque

from starlette.types import ASGIApp, Receive, Scope, Send

from service.telemetry.probes import PROBES

PER_TURN = 8
AT_ONCE = PROBES - {"/metrics"}  # they take a fraction of a millisecond


class Pacing:
    """ASGI middleware: PER_TURN requests begin in a turn, the others in the next ones, in their order.

    It belongs to the event loop. How many may wait is how many connections there may be.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._begun = 0  # in this turn
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in AT_ONCE:
            await self._turn()
        await self.app(scope, receive, send)

    async def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        if self._begun == 0:
            loop.call_soon(self._next_turn)
        if self._begun < PER_TURN:
            self._begun += 1
            return
        self._waiting.append(turn := loop.create_future())
        await turn

    def _next_turn(self) -> None:
        self._begun = min(len(self._waiting), PER_TURN)
        for _ in range(self._begun):
            turn = self._waiting.popleft()
            if not turn.done():  # its task was cancelled
                turn.set_result(None)
        if self._begun:
            asyncio.get_running_loop().call_soon(self._next_turn)
