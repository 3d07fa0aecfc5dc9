"""How the router learns which replicas there are: Ray Serve tells each process that holds a deployment's handle.

Serve leaves a replica out before it stops it, and as soon as it sees that it died.
"""

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from cluster import reports


class Directory(RequestRouter):
    """Serve's request router for the replicas' handle, by which no requests are sent."""

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        news = {r.replica_id.unique_id: {**r.replica_metadata, **r.routing_stats} for r in replicas}
        for listener in reports.listeners:
            listener(news)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        return [candidate_replicas]
