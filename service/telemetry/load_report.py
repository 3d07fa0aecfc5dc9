"""What balancers and autoscalers read of the engine: by method, how long a request would wait, and what is to spare."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from service.engine.forecast import Forecast
from service.engine.placement import Placement
from service.errors import Unavailable

GAUGES = {
    "trilemma_predicted_wait_seconds": "How much later a request of the default steps would end than it does alone",
    "trilemma_spare_steps_per_second": "Steps a second that the machine could do beside what it does now",
    "trilemma_promised_utilization": "Share of the machine that accepted deadlines need",
}


@dataclass(frozen=True)
class MethodLoad:
    """What one more request of a method would meet, with so many network evaluations of one image."""

    steps: int
    wait_s: float  # how much later it would end than it does alone
    end_s: float  # seconds until it would end
    spare_steps_per_s: float
    promised_utilization: float

    @property
    def gauges(self) -> tuple[float, ...]:
        """In the order of GAUGES."""
        return self.wait_s, self.spare_steps_per_s, self.promised_utilization


def by_method(forecast: Forecast, models: Mapping[str, Placement], steps: int | None = None) -> dict[str, MethodLoad]:
    """Of each model that takes requests; `steps` are the model's default if absent."""
    loads = {}
    for method, model in models.items():
        if (digest := model.digest) in forecast.models:
            count = steps or model.bundle.manifest.recommended_steps
            wait_s = forecast.wait_s(digest, count)
            loads[method] = MethodLoad(
                steps=count,
                wait_s=wait_s,
                end_s=wait_s + forecast.alone_s(digest, count),
                spare_steps_per_s=forecast.spare_steps_per_s(digest),
                promised_utilization=forecast.promised[digest],
            )
    return loads


class LoadCollector(Collector):
    """The same as gauges, computed when they are scraped; without values while the engine does not run."""

    def __init__(self, forecast: Callable[[], Forecast], models: Callable[[], Mapping[str, Placement]]) -> None:
        self._forecast = forecast
        self._models = models

    def collect(self) -> Iterator[GaugeMetricFamily]:
        try:
            forecast = self._forecast()
        except Unavailable:
            return
        loads = by_method(forecast, self._models())
        for position, (name, description) in enumerate(GAUGES.items()):
            family = GaugeMetricFamily(name, description, labels=["method"])
            for method, load in loads.items():
                family.add_metric([method], load.gauges[position])
            yield family
        description = "Share of its largest throughput that the machine's accepted work uses now"
        yield GaugeMetricFamily("trilemma_utilization", description, value=forecast.utilization)
