"""The service as a Ray Serve application: `build` is what `./run cluster` and the config file of a cluster name."""

import asyncio
from functools import partial
from typing import Any

from pydantic import BaseModel, ConfigDict, PositiveInt
from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig
from ray.serve.handle import DeploymentHandle

from cluster import reports
from cluster.directory import Directory
from cluster.fleet import Fleet
from cluster.hosting import Host, listen
from cluster.replica import Replica
from cluster.router import application
from cluster.router_metrics import RouterMetrics
from service.settings import Settings
from service.telemetry import logs

STATS_S = 1.0  # between two looks at a replica's cost model
HEALTH = {"health_check_period_s": 2.0, "health_check_timeout_s": 10.0}  # a busy machine takes its time
SCALING = {
    "policy": {"policy_function": "cluster.scaling:replicas"},
    "upscale_delay_s": 10.0,
    "downscale_delay_s": 120.0,
}
POLL_S = 0.1


class Options(BaseModel):
    """What an application is built of."""

    model_config = ConfigDict(extra="forbid")

    settings: dict[str, Any] = {}  # of the service, by name, for the router and each replica
    replicas: PositiveInt = 1
    max_replicas: PositiveInt | None = None  # None: always `replicas`
    local: bool = False  # on one machine: replicas listen where nobody else can reach them
    rollout: str = ""  # another one replaces all processes, one after the other


class Front:
    """The router, on the address that callers know."""

    def __init__(self, options: dict[str, Any], rollout: str, replicas: DeploymentHandle[Any]) -> None:
        settings = Settings(**options)
        logs.configure(settings)
        self.replicas = replicas
        self.fleet, metrics = Fleet(), RouterMetrics()
        app = application(self.fleet, metrics, settings)
        self.host = Host(app, metrics, settings, listen(settings.host, settings.port))
        reports.listeners.append(self._update)

    def _update(self, news: reports.Reports) -> None:
        self.host.call_soon(partial(self.fleet.update, news))

    async def wait(self) -> None:
        """Returns when there is a replica. The first call by a handle has Serve tell about the replicas."""
        await self.replicas.ping.remote()
        while not self.fleet.replicas:
            await asyncio.sleep(POLL_S)

    def check_health(self) -> None:
        """Raises RuntimeError when Serve is to start another process in place of this one."""
        if not self.host.alive:
            raise RuntimeError("the router has stopped")

    async def __del__(self) -> None:
        if hasattr(self, "host"):
            await asyncio.to_thread(self.host.stop)


def build(args: dict[str, Any]) -> Application:
    """The application of Options: the router, and its replicas. Ray Serve's proxies are not used."""
    options = Options.model_validate(args)
    shutdown_s = Settings(**options.settings).shutdown_s
    common = {**HEALTH, "graceful_shutdown_timeout_s": shutdown_s, "ray_actor_options": {"num_cpus": 0}}
    count: dict[str, Any] = {"num_replicas": options.replicas}
    if options.max_replicas is not None:
        count = {
            "autoscaling_config": {**SCALING, "min_replicas": options.replicas, "max_replicas": options.max_replicas}
        }
    replicas = serve.deployment(
        Replica,
        request_router_config=RequestRouterConfig(
            request_router_class=Directory, request_routing_stats_period_s=STATS_S
        ),
        **count,
        **common,
    ).bind(options.settings, options.local, options.rollout)
    return serve.deployment(Front, num_replicas=1, **common).bind(options.settings, options.rollout, replicas)
