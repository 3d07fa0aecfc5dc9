"""`./run cluster`: the service as replicas on this machine, by Ray Serve, until SIGTERM or SIGINT.

SIGHUP replaces every process by a new one, with the code and the models as they are then. No request fails.
"""

import signal
import sys
import time
from contextlib import closing

import ray
import structlog
from pydantic import Field, PositiveInt
from pydantic_settings import CliApp, SettingsConfigDict
from ray import serve

from cluster.application import Options, build
from cluster.hosting import free_port
from service.__main__ import explain, listen
from service.settings import Settings
from service.telemetry import logs

log = structlog.get_logger()

NAME = "trilemma"
MIN_OBJECT_STORE = 80 * 2**20  # bytes; nothing is sent by it
OWN = {"replicas", "max_replicas"}


class ClusterSettings(Settings):
    """Serve diffusion models over HTTP by several replicas behind one address."""

    model_config = SettingsConfigDict(env_prefix="TRILEMMA_", cli_kebab_case=True, cli_prog_name="./run cluster")

    replicas: PositiveInt = Field(2, description="processes that serve; default for workers: the processors shared")
    max_replicas: PositiveInt | None = Field(
        None, description="so many at most, as utilisation and predicted wait demand; default: always --replicas"
    )


def main() -> None:
    try:
        settings = CliApp.run(ClusterSettings)
        logs.configure(settings)
        with closing(listen(settings.host, settings.port)):  # before Ray starts, which takes its time
            pass
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
    signals = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})
        deploy(options)
        log.info("serving", url=f"http://{settings.host}:{options.settings['port']}", replicas=settings.replicas)
        while signal.sigwait(signals) == signal.SIGHUP:
            deploy(options)
            log.info("every process was replaced")
    finally:
        serve.shutdown()
        ray.shutdown()


def options_of(settings: ClusterSettings) -> Options:
    """For `build`, with a port of its own and a share of the processors for each replica, unless they are given."""
    own = settings.model_dump(mode="json", exclude=OWN)
    own["port"] = settings.port or free_port()
    if "workers" not in settings.model_fields_set:
        own["workers"] = max(1, settings.workers // settings.replicas)
    return Options(settings=own, replicas=settings.replicas, max_replicas=settings.max_replicas, local=True)


def deploy(options: Options) -> None:
    """Returns when all processes are new ones, and serve."""
    new = options.model_copy(update={"rollout": str(time.time_ns())})
    serve.run(build(new.model_dump()), name=NAME, route_prefix=None).wait.remote().result()


if __name__ == "__main__":
    main()
