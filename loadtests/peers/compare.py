"""`./run bench peers`: the same models behind other servers and behind this one, under the same open-loop load.

A server is first measured saturated, a peer with each of TUNINGS, of which the best is kept. Loads and goodput are
shares of our own saturated work, which is measured again before each load as the machine drifts. All measurements stay
in a folder: later runs add points, and the report has all of them.
"""

import argparse
import json
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

import uvloop

from bundle import loading
from loadtests.load import traces
from loadtests.machine import machine
from loadtests.peers import document, summary
from loadtests.peers.client import Client, Outcome
from loadtests.peers.pipeline import Tuning
from loadtests.peers.servers import NO_DEADLINES, ROOT, SERVERS, Server, memory_mb, running
from service.engine import workload
from service.engine.workload import Class
from service.settings import SHIPPED_BUNDLES

FOLDER = ROOT / ".cache" / "peers"
LOADS = [0.5, 0.8, 0.95, 1.5, 3.0]
TUNINGS = [Tuning(2, 1, 2), Tuning(2, 1, 4), Tuning(2, 1, 16)]  # BentoML takes no batch of 1
ALONE, AT_ONCE, SATURATING_S = 20, 32, 10.0


class Bench:
    """The measurements so far, in a file.

    Work is in seconds alone: a call's work is the latency of its class alone on our server.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "measured.json"
        self.kinds = traces.classes(loading.load_all(SHIPPED_BUNDLES)[0])
        self.measured: dict[str, Any] = {"alone_s": {}, "saturated": {}, "points": []}
        if self.path.exists():
            self.measured = json.loads(self.path.read_text())

    def save(self) -> None:
        self.path.write_text(json.dumps(self.measured, indent=1) + "\n")

    def good_s(self, kind: Class) -> float:
        return workload.good_s(self.measured["alone_s"].get(kind.name, 60.0))

    def tuning(self, server: Server) -> Tuning:
        """The tuning with which a peer did the most work when saturated; ours takes none."""
        if not server.module:
            return Tuning()
        return Tuning(**max(self.measured["saturated"][server.name], key=lambda run: run["work"])["tuning"])

    def alone(self) -> None:
        """Measures the median latency of each class alone on our server."""

        async def measure(url: str) -> None:
            client = Client(NO_DEADLINES, url, self.good_s)
            await client.await_ready(self.kinds)
            latency_s = await client.alone_s(self.kinds, ALONE)
            self.measured["alone_s"] = {name: statistics.median(values) for name, values in latency_s.items()}
            await client.session.close()

        with running(NO_DEADLINES, Tuning()) as (url, _):
            uvloop.run(measure(url))
        print(self.measured["alone_s"], flush=True)

    def saturate(self, server: Server) -> None:
        """Measures the work a second with AT_ONCE calls of the mix in flight."""
        alone_s = self.measured["alone_s"]
        calls = traces.poisson(self.kinds, 40.0, SATURATING_S, seed=1)

        async def measure(url: str) -> float:
            client = Client(server, url, self.good_s)
            await client.await_ready(self.kinds)
            seconds = await client.saturated_s(calls, AT_ONCE)
            await client.session.close()
            return sum(alone_s[call.kind.name] for call in calls) / seconds

        runs = self.measured["saturated"].setdefault(server.name, [])
        for tuning in TUNINGS if server.module else [Tuning()]:
            with running(server, tuning) as (url, _):
                runs.append({"tuning": asdict(tuning), "work": uvloop.run(measure(url))})
            print(server.name, runs[-1], flush=True)
        self.save()

    @property
    def capacity(self) -> float:
        """The work a second of our own saturated server, as measured last."""
        capacity: float = self.measured["saturated"][NO_DEADLINES.name][-1]["work"]
        return capacity

    def point(
        self, server: Server, tuning: Tuning, load: float, arrivals: str, seconds: float, seed: int
    ) -> dict[str, Any]:
        """Measures a new server at `load` times the capacity; each call as time, status and latency, by class."""
        trace = {"poisson": traces.poisson, "bursts": traces.bursts}[arrivals]
        call_s = sum(kind.share * self.measured["alone_s"][kind.name] for kind in self.kinds)
        calls = trace(self.kinds, load * self.capacity / call_s, seconds, seed)

        async def measure(url: str) -> tuple[list[Outcome], float, float]:
            client = Client(server, url, self.good_s)
            await client.await_ready(self.kinds)
            before = memory_mb(process)
            outcomes = await client.replay(calls)
            after = memory_mb(process)
            await client.session.close()
            return outcomes, before, after

        with running(server, tuning) as (url, process):
            outcomes, before, after = uvloop.run(measure(url))
        by_class: dict[str, list[Any]] = {kind.name: [] for kind in self.kinds}
        for outcome in outcomes:
            by_class[outcome.call.kind.name].append([outcome.call.at_s, outcome.status, outcome.latency_s])
        return {
            "server": server.name,
            "load": load,
            "arrivals": arrivals,
            "seconds": seconds,
            "capacity": self.capacity,
            "memory_mb": [before, after],
            "calls": by_class,
        }


def main() -> None:
    parser = argparse.ArgumentParser(prog="./run bench peers", description=__doc__)
    parser.add_argument(
        "--loads", type=float, nargs="+", default=LOADS, help="loads, as shares of the measured capacity"
    )
    parser.add_argument("--arrivals", choices=["poisson", "bursts"], default="poisson", help="kind of the trace")
    parser.add_argument("--seconds", type=float, default=60.0, help="duration of a point")
    parser.add_argument("--rounds", type=int, default=1, help="rounds of all points; the servers take turns")
    parser.add_argument("--servers", nargs="+", default=[server.name for server in SERVERS], help="names of servers")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="folder for all measurements")
    options = parser.parse_args()
    if options.seconds <= summary.SETTLED_S:
        parser.error(f"--seconds must be more than {summary.SETTLED_S:g}")
    bench = Bench(options.folder)
    servers = [server for server in SERVERS if server.name in options.servers]
    if not bench.measured["alone_s"]:
        bench.alone()
    for server in servers:
        if server.module and server.name not in bench.measured["saturated"]:
            bench.saturate(NO_DEADLINES)
            bench.saturate(server)
    for number in range(options.rounds):
        for load in options.loads:
            bench.saturate(NO_DEADLINES)
            for server in servers:
                seed = 1000 * number + int(100 * load)
                point = bench.point(server, bench.tuning(server), load, options.arrivals, options.seconds, seed)
                bench.measured["points"].append(point)
                bench.save()
                print(summary.line(summary.row([point], bench.measured)), flush=True)
    document.save(summary.summary(bench.measured, machine()))


if __name__ == "__main__":
    main()
