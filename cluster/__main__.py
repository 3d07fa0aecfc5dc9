"""`./run cluster`: the service as replicas on this machine, by Ray Serve, until SIGTERM or SIGINT.

SIGHUP replaces each replica by a new process, with the code and the models as they are then. No request fails.
"""

import signal
import sys
import time
from contextlib import suppress
from queue import Empty, SimpleQueue

import ray
import structlog
from pydantic import Field, PositiveInt
from pydantic_settings import CliApp, SettingsConfigDict
from ray import serve

from cluster import application
from cluster.application import REPLICAS, ROUTER, ReplicaOptions
from cluster.hosting import free_port
from service.__main__ import bind, explain
from service.settings import Settings
from service.telemetry import logs

log = structlog.get_logger()

MIN_OBJECT_STORE = 80 * 2**20  # bytes; nothing is sent by it
POLL_S = 0.2
OWN = {"replicas"}


class ClusterSettings(Settings):
    """Serve diffusion models over HTTP by several replicas behind one address."""

    model_config = SettingsConfigDict(env_prefix="TRILEMMA_", cli_kebab_case=True, cli_prog_name="./run cluster")

    replicas: PositiveInt = Field(2, description="processes that serve; default for workers: the processors shared")


def main() -> None:
    try:
        settings = CliApp.run(ClusterSettings)
        logs.configure(settings)
        bind(settings.host, settings.port).close()  # before Ray starts, which takes its time
    except (OSError, ValueError) as error:  # ValueError is pydantic's too
        print(f"./run cluster: {explain(error)}", file=sys.stderr)
        sys.exit(2)
    options = options_of(settings)
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        object_store_memory=MIN_OBJECT_STORE,
        logging_level="warning",
    )
    signals = SimpleQueue[int]()
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # in place of Ray's own
        signal.signal(signum, lambda number, _: signals.put(number))
    try:
        serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})
        deploy(options)
        front = serve.run(application.router({"settings": options.settings}), name=ROUTER, route_prefix=None)
        front.wait.remote().result()
        log.info("serving", url=f"http://{settings.host}:{options.settings['port']}", replicas=settings.replicas)
        while next_of(signals) == signal.SIGHUP:
            deploy(options)
            log.info("every replica was replaced")
    finally:
        serve.shutdown()
        ray.shutdown()


def next_of(signals: "SimpleQueue[int]") -> int:
    """Waits in short turns: a signal that comes on one of Ray's threads wakes nobody."""
    while True:
        with suppress(Empty):
            return signals.get(timeout=POLL_S)


def options_of(settings: ClusterSettings) -> ReplicaOptions:
    """For both applications, with a port and a share of the processors for each replica, unless they are given."""
    own = settings.model_dump(mode="json", exclude=OWN)
    own["port"] = settings.port or free_port()
    if "workers" not in settings.model_fields_set:
        own["workers"] = max(1, settings.workers // settings.replicas)
    return ReplicaOptions(settings=own, replicas=settings.replicas, local=True)


def deploy(options: ReplicaOptions) -> None:
    """Returns when all replicas are new ones, and serve."""
    new = options.model_copy(update={"rollout": str(time.time_ns())})
    serve.run(application.replicas(new.model_dump()), name=REPLICAS, route_prefix=None)


if __name__ == "__main__":
    main()
