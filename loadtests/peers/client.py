"""Replays a trace against a server: sends each call at its time, independent of earlier answers, and records it."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

import aiohttp
import orjson

from loadtests.load.traces import Call
from loadtests.peers.servers import Server
from service.engine.workload import Class

TIMEOUT_S = 20.0
START_S = 120
WARM_UPS = 3  # answers of each class, before anything is measured


@dataclass(frozen=True)
class Outcome:
    """The end of a call."""

    call: Call
    status: int  # HTTP's; 0: no answer within TIMEOUT_S
    latency_s: float  # from the trace's time for the call


class Client:
    """Sends calls to a server; `good_s` gives the deadline of a class."""

    def __init__(self, server: Server, url: str, good_s: Callable[[Class], float]) -> None:
        self.server = server
        self.url = f"{url}/generate"
        self.good_s = good_s
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
        )

    async def send(self, call: Call) -> int:
        """Sends the call now, and reads the answer; its status. Raises ClientError."""
        body = orjson.dumps(self.server.body(call, self.good_s(call.kind)))
        headers = {"Content-Type": "application/json", "Accept": "image/png"}
        if self.server.wrapped:
            headers["Accept"] = "application/json"
        async with self.session.post(self.url, data=body, headers=headers) as response:
            await response.read()
            return response.status

    async def outcome(self, call: Call, start_s: float) -> Outcome:
        """Sends the call now, and waits for its answer at most until TIMEOUT_S after its time in the trace."""
        try:
            async with asyncio.timeout_at(start_s + call.at_s + TIMEOUT_S):
                status = await self.send(call)
        except (TimeoutError, aiohttp.ClientError):
            status = 0
        return Outcome(call, status, asyncio.get_running_loop().time() - start_s - call.at_s)

    async def replay(self, calls: Sequence[Call]) -> list[Outcome]:
        """Sends each call at its time; returns when all have ended."""
        loop = asyncio.get_running_loop()
        start_s, tasks = loop.time(), []
        for call in calls:
            await asyncio.sleep(start_s + call.at_s - loop.time())
            tasks.append(asyncio.create_task(self.outcome(call, start_s)))
        return await asyncio.gather(*tasks)

    async def await_ready(self, kinds: Sequence[Class]) -> None:
        """Returns after WARM_UPS answers of every class. Raises TimeoutError after START_S."""
        async with asyncio.timeout(START_S):
            for kind in kinds:
                answered, seeds = 0, count()
                while answered < WARM_UPS:
                    try:
                        answered += await self.send(Call(0.0, kind, next(seeds))) == 200
                    except aiohttp.ClientError:
                        await asyncio.sleep(0.2)

    async def alone_s(self, kinds: Sequence[Class], times: int) -> dict[str, list[float]]:
        """The latencies of each class, in seconds, one call after the other; the classes take turns."""
        latency_s: dict[str, list[float]] = {kind.name: [] for kind in kinds}
        for seed in range(times):
            for kind in kinds:
                start_s = time.perf_counter()
                await self.send(Call(0.0, kind, 2**41 + seed))
                latency_s[kind.name].append(time.perf_counter() - start_s)
        return latency_s

    async def saturated_s(self, calls: Sequence[Call], at_once: int) -> float:
        """Seconds until all the calls are answered, with `at_once` of them in flight."""
        waiting = iter(calls)

        async def keep_sending() -> None:
            for call in waiting:
                while await self.send(call) != 200:  # a refusal: try again
                    await asyncio.sleep(0.1)

        start_s = time.perf_counter()
        await asyncio.gather(*(keep_sending() for _ in range(at_once)))
        return time.perf_counter() - start_s
