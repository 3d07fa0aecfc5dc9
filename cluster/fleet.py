"""The replicas and what is under way on each: which of them would answer a request first. Pure.

A replica publishes its cost model. A request's end is then predicted as a replica's own admission predicts it (Graham
1969): the work that is due before it, shared by the workers, and its own work alone. See `Scheduler.predicted_ends`.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.call import Call

TIE_S = 0.01  # ends that are nearer to each other are equal: the cost model is no finer
AWAY_S = 1.0  # for which a replica that cannot be reached gets no requests
MAX_OWNERS = 65536  # requests remembered, in about 15 MB
UNKNOWN = {"alone_s": 0.005, "row_s": 0.003, "steps": 20}  # of a model that a replica does not know


@dataclass(eq=False)
class Replica:
    """A replica, as it describes itself."""

    id: str
    url: str
    workers: int
    methods: Mapping[
        str, Mapping[str, Any]
    ]  # by name: seconds of a step alone, of a row in a full batch, default steps
    under_way: dict[Call, tuple[float, float]] = field(default_factory=dict)  # when each is due, and its work
    away_until_s: float = 0.0

    def work_s(self, call: Call) -> tuple[float, float]:
        """Seconds of its steps alone, and of its rows' shares of full batches."""
        known = self.methods.get(call.method, UNKNOWN)
        steps, rows = call.steps(known["steps"]), call.rows()
        shared_s = steps * rows * known["row_s"]
        return max(steps * known["alone_s"], shared_s / self.workers), shared_s

    def predicted_end_s(self, call: Call) -> float:
        """From now."""
        alone_s, shared_s = self.work_s(call)
        due_s = call.due_s(shared_s)
        before_s = sum(work_s for other_due_s, work_s in self.under_way.values() if other_due_s <= due_s)
        return before_s / self.workers + alone_s

    def begin(self, call: Call) -> None:
        if call.computes:
            _, shared_s = self.work_s(call)
            self.under_way[call] = call.due_s(shared_s), shared_s

    def end(self, call: Call) -> None:
        self.under_way.pop(call, None)


class Fleet:
    """The replicas that may be asked. It belongs to the event loop of the router."""

    def __init__(self) -> None:
        self.replicas: dict[str, Replica] = {}
        self._owners: OrderedDict[bytes, str] = OrderedDict()  # of requests, by key: who has the answer in its cache

    def update(self, reports: Mapping[str, Mapping[str, Any]]) -> None:
        """Takes what the replicas that run now say of themselves, by id."""
        before = self.replicas
        self.replicas = {id: Replica(id, **report) for id, report in reports.items()}
        for id, replica in self.replicas.items():
            if id in before:
                replica.under_way, replica.away_until_s = before[id].under_way, before[id].away_until_s

    def choose(self, call: Call, now: float, without: Collection[str] = ()) -> Replica | None:
        """The replica that has the answer, or else would have it first; None if there is no other than `without`.

        Of equal ones, by rendezvous hashing (Thaler and Ravishankar 1998): the same request goes to the same one.
        """
        free = [r for r in self.replicas.values() if r.id not in without and r.away_until_s <= now]
        if not free:
            return None
        owner = self._owners.get(call.key)
        best = next((r for r in free if r.id == owner), None) or min(
            free, key=lambda replica: (int(replica.predicted_end_s(call) / TIE_S), _rank(call.key, replica.id))
        )
        if call.computes and call.repeats:
            self._owners[call.key] = best.id
            self._owners.move_to_end(call.key)
            if len(self._owners) > MAX_OWNERS:
                self._owners.popitem(last=False)
        return best


def _rank(key: bytes, id: str) -> bytes:
    return hashlib.blake2b(id.encode(), key=key, digest_size=8).digest()
