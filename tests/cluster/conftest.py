"""The router in a thread, over services that need no Ray."""

from collections.abc import Iterator
from contextlib import contextmanager

from cluster.fleet import Fleet
from cluster.hosting import Host, listen
from cluster.router import application
from cluster.router_metrics import RouterMetrics
from loadtests.server_process import free_port
from service.settings import Settings

METHODS = {"toy": {"alone_s": 0.001, "row_s": 0.001, "steps": 5}}


@contextmanager
def routing(*urls: str) -> Iterator[tuple[str, Fleet, RouterMetrics]]:
    """The router's URL, what it knows of the replicas "0", "1", … at `urls`, and its metrics."""
    fleet, metrics, settings = Fleet(), RouterMetrics(), Settings()
    fleet.update({str(i): {"url": url, "workers": 1, "methods": METHODS} for i, url in enumerate(urls)})
    listener = listen("127.0.0.1", port := free_port())
    host = Host(application(fleet, metrics, settings), metrics, settings, listener)
    try:
        yield f"http://127.0.0.1:{port}", fleet, metrics
    finally:
        host.stop()


def count(metrics: RouterMetrics, name: str) -> float:
    return metrics.registry.get_sample_value(f"trilemma_router_{name}_total") or 0.0
