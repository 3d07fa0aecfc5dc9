"""How the router learns which replicas there are: Ray Serve tells each process that holds a deployment's handle.

Serve leaves a replica out before it stops it, and as soon as it sees that it died.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

Reports = Mapping[str, Mapping[str, Any]]  # by id: what `Replica.record_routing_stats` says
listeners: list[Callable[[Reports], object]] = []  # of this process; called on a thread of Serve's


class Directory(RequestRouter):
    """Serve's request router for the replicas' handle, by which no requests are sent."""

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        reports = {replica.replica_id.unique_id: replica.routing_stats for replica in replicas if replica.routing_stats}
        for listener in listeners:
            listener(reports)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        return [candidate_replicas]
