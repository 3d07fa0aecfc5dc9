"""`./run chaos`: mixed requests through two replicas that are killed, stopped and replaced meanwhile.

Each request must get exactly one answer, and sampled images must be those of one undisturbed service.
"""

import argparse
import asyncio
import itertools
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from loadtests.server_process import REPOSITORY, free_port, serving

BUNDLE = "latent"
REPLICAS, CLIENTS, REPEATED, SAMPLES = 2, 8, 50, 2000
STOPPED_S, START_S, WITHIN_S = 1.0, 600.0, 300.0
REPLICA = "ray::ServeReplica:replicas:Replica"
JSON = {"Content-Type": "application/json"}


class Chaos:
    """The requests, the faults, and what came of each."""

    def __init__(self, url: str, cluster: psutil.Process, requests: int, fault_s: float) -> None:
        self.url, self.cluster, self.fault_s = url, cluster, fault_s
        self.left = iter(range(requests))
        self.share = min(1.0, SAMPLES / requests)
        self.outcomes: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.images: dict[int, bytes] = {}  # sampled, by seed
        self.random = random.Random(1)  # noqa: S311
        self.kinds: list[Callable[[aiohttp.ClientSession, int], Awaitable[str]]] = [
            self.image,
            self.image,
            self.image,
            self.repeated,
            self.promised,
            self.stream,
            self.leaves,
            self.cancelled,
        ]

    async def run(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WITHIN_S)) as session:
            faults = asyncio.create_task(self._break(session))
            await asyncio.gather(*(self._ask(session) for _ in range(CLIENTS)))
            faults.cancel()
            await self._settle(session)

    async def _ask(self, session: aiohttp.ClientSession) -> None:
        for number in self.left:
            kind = self.random.choice(self.kinds)
            try:
                outcome = await kind(session, number)
            except (TimeoutError, aiohttp.ClientError) as error:
                outcome = f"no answer: {error!r}"
            self.outcomes[f"{kind.__name__} {outcome}"] += 1

    @asynccontextmanager
    async def _post(
        self, session: aiohttp.ClientSession, seed: int, accept: str = "image/png", id: str = "", **fields: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        body = {"method": BUNDLE, "steps": 4, "seed": seed, **fields}
        headers = {"Accept": accept, "X-Request-ID": id or f"chaos-{seed}"}
        async with session.post(f"{self.url}/generate", json=body, headers=headers) as answer:
            yield answer

    async def image(self, session: aiohttp.ClientSession, number: int) -> str:
        seed = 1000 + number
        async with self._post(session, seed) as answer:
            content = await answer.read()
            if answer.status == 200 and self.random.random() < self.share:
                self.images[seed] = content
            return str(answer.status)

    async def repeated(self, session: aiohttp.ClientSession, number: int) -> str:
        async with self._post(session, seed := number % REPEATED) as answer:
            content = await answer.read()
            same = answer.status != 200 or self.images.setdefault(seed, content) == content
            return str(answer.status) if same else "other bytes"

    async def promised(self, session: aiohttp.ClientSession, number: int) -> str:
        async with self._post(session, 1000 + number, deadline_ms=5000) as answer:
            await answer.read()
            return str(answer.status)

    async def stream(self, session: aiohttp.ClientSession, number: int) -> str:
        """Read slowly. It must end once."""
        names = []
        async with self._post(session, 1000 + number, "text/event-stream", steps=100, preview_every=10) as answer:
            async for line in answer.content:
                if line.startswith(b"event: "):
                    names.append(line[7:].strip().decode())
                    await asyncio.sleep(0.001)
        ends = [name for name in names if name in ("completed", "error")]
        return ends[0] if len(ends) == 1 and names[-1] == ends[0] else f"ends {ends}"

    async def leaves(self, session: aiohttp.ClientSession, number: int) -> str:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.01), self._post(session, 1000 + number, steps=500) as answer:
                return str(answer.status)
        return "left"

    async def cancelled(self, session: aiohttp.ClientSession, number: int) -> str:
        async def cancel() -> None:
            await asyncio.sleep(0.01)
            async with session.delete(f"{self.url}/requests/cancel-{number}"):
                pass

        cancelling = asyncio.create_task(cancel())
        async with self._post(session, 1000 + number, id=f"cancel-{number}", steps=500) as answer:
            await answer.read()
        await cancelling
        return str(answer.status)

    async def _break(self, session: aiohttp.ClientSession) -> None:
        """A fault every `fault_s`, once all replicas are there again."""
        for fault in itertools.cycle(("kill", "stop", "reload", "kill", "replace")):
            await asyncio.sleep(self.fault_s)
            await self._whole(session)
            replica = self.random.choice(replicas(self.cluster))
            self.faults[fault] += 1
            if fault == "kill":
                replica.kill()
            elif fault == "stop":
                replica.suspend()
                await asyncio.sleep(STOPPED_S)
                replica.resume()
            elif fault == "reload":
                async with session.post(f"{self.url}/admin/reload", headers=JSON) as answer:
                    self.outcomes[f"reload {answer.status}"] += 1
            else:
                self.cluster.send_signal(signal.SIGHUP)

    async def _whole(self, session: aiohttp.ClientSession) -> list[str]:
        """The addresses of the replicas, once there are as many as there should be, and processes too."""
        until_s = time.monotonic() + START_S
        while time.monotonic() < until_s:
            with suppress(aiohttp.ClientError):
                async with session.get(f"{self.url}/cluster/replicas") as answer:
                    addresses: list[str] = (await answer.json())[0]["targets"]
                if len(addresses) == len(replicas(self.cluster)) == REPLICAS:
                    return addresses
            await asyncio.sleep(0.5)
        raise TimeoutError("the replicas did not come back")

    async def _settle(self, session: aiohttp.ClientSession) -> None:
        """Nothing may be under way at the end."""
        for address in await self._whole(session):
            async with session.get(f"http://{address}/metrics") as answer:
                lines = (await answer.text()).splitlines()
            for line in ("trilemma_active_images 0.0", "trilemma_waiting_images 0.0"):
                self.outcomes["gauge at zero" if line in lines else f"gauge not {line}"] += 1


def replicas(cluster: psutil.Process) -> list[psutil.Process]:
    """Their processes."""
    found = []
    for process in cluster.children(recursive=True):
        with suppress(psutil.Error):
            if process.cmdline()[:1] == [REPLICA]:
                found.append(process)
    return found


def is_good(outcome: str) -> bool:
    """Whether this may come of a request."""
    kind, _, rest = outcome.partition(" ")
    more = {"cancelled": {"409"}, "leaves": {"left"}, "stream": {"completed"}, "gauge": {"at zero"}}
    return rest in {"200", "429"} | more.get(kind, set())


def differing(images: dict[int, bytes]) -> int:
    """How many of the images one undisturbed service makes otherwise."""
    wrong = 0
    with serving(REPOSITORY / "bundles") as url:

        async def compare() -> None:
            nonlocal wrong
            async with aiohttp.ClientSession() as session:
                for seed, image in images.items():
                    body = {"method": BUNDLE, "steps": 4, "seed": seed}
                    async with session.post(f"{url}/generate", json=body, headers={"Accept": "image/png"}) as answer:
                        wrong += await answer.read() != image

        asyncio.run(compare())
    return wrong


def wait_for(process: "subprocess.Popen[bytes]", ready: Path) -> None:
    """Returns when the cluster's log says that it serves."""
    until_s = time.monotonic() + START_S
    while b"serving" not in ready.read_bytes():
        if process.poll() is not None or time.monotonic() > until_s:
            raise SystemExit(f"the cluster did not start: {ready}")
        time.sleep(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(prog="./run chaos", description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000, help="number of requests")
    parser.add_argument("--fault-s", type=float, default=15.0, help="time between two faults")
    parser.add_argument("--log", type=Path, default=Path("chaos.log"), help="file for the cluster's log")
    options = parser.parse_args()
    port = free_port()
    command = [str(REPOSITORY / "run"), "cluster", "--replicas", str(REPLICAS), "--port", str(port), "--workers", "1"]
    command += ["--log-level", "info"]
    with options.log.open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            wait_for(process, options.log)
            chaos = Chaos(f"http://127.0.0.1:{port}", psutil.Process(process.pid), options.requests, options.fault_s)
            asyncio.run(chaos.run())
        finally:
            process.terminate()
    chaos.outcomes[f"samples {'200' if not (wrong := differing(chaos.images)) else f'{wrong} differ'}"] += 1
    bad = {outcome: n for outcome, n in chaos.outcomes.items() if not is_good(outcome)}
    print(json.dumps({"outcomes": chaos.outcomes, "faults": chaos.faults, "sampled": len(chaos.images)}, indent=1))
    sys.exit(f"wrong: {bad}" if bad else 0)


if __name__ == "__main__":
    main()
