"""A replica: the service as `./run serve` has it, on a free port of its machine, in a process that Ray looks after."""

import asyncio
import time
from typing import Any

import ray

from cluster.hosting import Host, listen
from service.app import create_app
from service.requests.state import ServiceState
from service.settings import Settings
from service.telemetry import logs

LOAD_S = 600.0  # for the models, before Serve is told that it failed
POLL_S = 0.1


class Replica:
    """Ray Serve calls these methods, none of them for a request."""

    def __init__(self, options: dict[str, Any], local: bool, rollout: str) -> None:
        """`options` are settings of the service. Another `rollout` replaces each replica by a new process."""
        settings = Settings(**options)
        logs.configure(settings)
        host = "127.0.0.1" if local else ray.util.get_node_ip_address()
        app = create_app(settings)
        listener = listen(host, 0)
        self.url = f"http://{host}:{listener.getsockname()[1]}"
        self.state: ServiceState = app.state.service
        self.host = Host(app, self.state.metrics, settings, listener)
        self._wait()

    def _wait(self) -> None:
        """Until there is a model to serve: so long Serve keeps the replica that this one replaces."""
        until_s = time.monotonic() + LOAD_S
        while (status := self.state.models.readiness().status) != "ready":
            if status != "starting" or time.monotonic() > until_s:
                raise RuntimeError(f"the service is not ready: {status}")
            time.sleep(POLL_S)

    def ping(self) -> None:
        """For a first call, by which a handle's process begins to hear of replicas."""

    def check_health(self) -> None:
        """Raises RuntimeError when Serve is to start another process in place of this one."""
        if not self.host.alive or self.state.models.readiness().status == "engine stopped":
            raise RuntimeError("the service has stopped")

    def record_routing_stats(self) -> dict[str, Any]:
        """Where it is, and its cost model: what `fleet.Replica` takes."""
        scheduler = self.state.engine.scheduler
        methods = {}
        for name, model in self.state.models.served().items():
            rows = scheduler.efficient_batch_size(model.digest)
            methods[name] = {
                "alone_s": scheduler.costs.seconds(model.digest, 1),
                "row_s": scheduler.costs.seconds(model.digest, rows) / rows,
                "steps": model.bundle.manifest.recommended_steps,
            }
        return {"url": self.url, "workers": scheduler.workers, "methods": methods}

    def record_replica_metadata(self) -> dict[str, Any]:
        """The same when it began: Serve passes it on with the news that there is this replica."""
        return self.record_routing_stats()

    async def __del__(self) -> None:
        """Serve calls it when the router has been told not to send more."""
        if hasattr(self, "host"):
            await asyncio.to_thread(self.host.stop)
