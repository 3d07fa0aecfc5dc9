"""The router's metrics. The service's own are each replica's."""

from prometheus_client import Counter

from service.telemetry.metrics import Metrics


class RouterMetrics(Metrics):
    """What the connections count, and what the router does."""

    def __init__(self) -> None:
        super().__init__()
        self.asked_elsewhere = Counter(
            "trilemma_router_asked_elsewhere_total", "Refusals of a replica, asked of another", registry=self.registry
        )
        self.sent_again = Counter(
            "trilemma_router_sent_again_total", "Requests sent again as their replica was gone", registry=self.registry
        )
