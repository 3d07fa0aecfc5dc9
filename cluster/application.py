"""The service as two Ray Serve applications, which `./run cluster` and the config file of a cluster name."""

import asyncio
from functools import partial
from typing import Any

from pydantic import BaseModel, ConfigDict, PositiveInt
from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig

from cluster import reports
from cluster.directory import Directory
from cluster.fleet import Fleet
from cluster.hosting import Host, listen
from cluster.replica import Replica
from cluster.router import application
from cluster.router_metrics import RouterMetrics
from service.settings import Settings
from service.telemetry import logs

ROUTER, REPLICAS = "router", "replicas"  # names of the applications
STATS_S = 1.0  # between two looks at a replica's cost model
HEALTH = {"health_check_period_s": 2.0, "health_check_timeout_s": 10.0}  # a busy machine takes its time
POLL_S = 0.1


class RouterOptions(BaseModel):
    """What the router's application is built of: the service's settings by name."""

    model_config = ConfigDict(extra="forbid")

    settings: dict[str, Any] = {}


class ReplicaOptions(RouterOptions):
    """What the replicas' application is built of."""

    replicas: PositiveInt = 1
    local: bool = False  # on one machine: they listen where nobody else can reach them
    rollout: str = ""  # another one replaces all replicas, one after the other


class Front:
    """The router, on the address that callers know."""

    def __init__(self, options: dict[str, Any]) -> None:
        replicas = serve.get_deployment_handle("Replica", REPLICAS)  # raises where they are not; Serve tries again
        settings = Settings(**options)
        logs.configure(settings)
        self.fleet, metrics = Fleet(), RouterMetrics()
        app = application(self.fleet, metrics, settings)
        self.host = Host(app, metrics, settings, listen(settings.host, settings.port))
        reports.listeners.append(self._update)
        self.first = replicas.ping.remote()  # the first call by a handle has Serve tell about the replicas

    def _update(self, news: reports.Reports) -> None:
        self.host.call_soon(partial(self.fleet.update, news))

    async def wait(self) -> None:
        """Returns when there is a replica."""
        while not self.fleet.replicas:
            await asyncio.sleep(POLL_S)

    def check_health(self) -> None:
        """Raises RuntimeError when Serve is to start another process in place of this one."""
        if not self.host.alive:
            raise RuntimeError("the router has stopped")

    async def __del__(self) -> None:
        if hasattr(self, "host"):
            await asyncio.to_thread(self.host.stop)


def router(args: dict[str, Any]) -> Application:
    """The application of RouterOptions. Ray Serve's own proxies are not used."""
    options = RouterOptions.model_validate(args)
    return serve.deployment(Front, num_replicas=1, **common(options)).bind(options.settings)


def replicas(args: dict[str, Any]) -> Application:
    """The application of ReplicaOptions. It is another one than the router's, which stays when these are replaced."""
    options = ReplicaOptions.model_validate(args)
    routing = RequestRouterConfig(request_router_class=Directory, request_routing_stats_period_s=STATS_S)
    deployment = serve.deployment(
        Replica, num_replicas=options.replicas, request_router_config=routing, **common(options)
    )
    return deployment.bind(options.settings, options.local, options.rollout)


def common(options: RouterOptions) -> dict[str, Any]:
    """What both deployments say of themselves."""
    shutdown_s = Settings(**options.settings).shutdown_s
    return {**HEALTH, "graceful_shutdown_timeout_s": shutdown_s, "ray_actor_options": {"num_cpus": 0}}
