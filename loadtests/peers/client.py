"""Sends a trace to a server, each call at its time whatever became of those before, and notes what became of it."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

import aiohttp
import orjson

from loadtests.load.traces import Call, Class
from loadtests.peers.servers import Server

TIMEOUT_S = 20.0
START_S = 120
WARM_UPS = 3  # of each class, before anything is measured


@dataclass(frozen=True)
class Outcome:
    """Of a call: HTTP's status, 0 for none within TIMEOUT_S, and seconds from when it was to be sent."""

    call: Call
    status: int
    latency_s: float


class Client:
    def __init__(self, server: Server, url: str, good_s: Callable[[Class], float]) -> None:
        self.server = server
        self.url = f"{url}/generate"
        self.good_s = good_s
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
        )

    async def ask(self, call: Call) -> int:
        body = orjson.dumps(self.server.body(call, self.good_s(call.kind)))
        headers = {"Content-Type": "application/json", "Accept": "image/png"}
        if self.server.wrapped:
            headers["Accept"] = "application/json"
        async with self.session.post(self.url, data=body, headers=headers) as response:
            await response.read()
            return response.status

    async def outcome(self, call: Call, start_s: float) -> Outcome:
        try:
            async with asyncio.timeout_at(start_s + call.at_s + TIMEOUT_S):
                status = await self.ask(call)
        except (TimeoutError, aiohttp.ClientError):
            status = 0
        return Outcome(call, status, asyncio.get_running_loop().time() - start_s - call.at_s)

    async def replay(self, calls: Sequence[Call]) -> list[Outcome]:
        loop = asyncio.get_running_loop()
        start_s, tasks = loop.time(), []
        for call in calls:
            await asyncio.sleep(start_s + call.at_s - loop.time())
            tasks.append(asyncio.create_task(self.outcome(call, start_s)))
        return await asyncio.gather(*tasks)

    async def await_ready(self, kinds: Sequence[Class]) -> None:
        """Returns once every class has been answered a few times. Raises TimeoutError."""
        async with asyncio.timeout(START_S):
            for kind in kinds:
                answered, seeds = 0, count()
                while answered < WARM_UPS:
                    try:
                        answered += await self.ask(Call(0.0, kind, next(seeds))) == 200
                    except aiohttp.ClientError:
                        await asyncio.sleep(0.2)

    async def alone_s(self, kinds: Sequence[Class], times: int) -> dict[str, list[float]]:
        """Seconds of each answer by class, one call after the other; the classes take turns."""
        took: dict[str, list[float]] = {kind.name: [] for kind in kinds}
        for seed in range(times):
            for kind in kinds:
                start_s = time.perf_counter()
                await self.ask(Call(0.0, kind, 2**41 + seed))
                took[kind.name].append(time.perf_counter() - start_s)
        return took

    async def saturated_s(self, calls: Sequence[Call], at_once: int) -> float:
        """Seconds until all the calls are answered, so many at a time."""
        waiting = iter(calls)

        async def keep_asking() -> None:
            for call in waiting:
                while await self.ask(call) != 200:  # it may be told to come back
                    await asyncio.sleep(0.1)

        start_s = time.perf_counter()
        await asyncio.gather(*(keep_asking() for _ in range(at_once)))
        return time.perf_counter() - start_s
