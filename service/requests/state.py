"""What the handlers of one application share."""

from dataclasses import dataclass, field

from service.engine.loop import Engine
from service.requests.cache import Cache, Coalescer
from service.requests.decoding import Decoder
from service.requests.inflight import InFlight
from service.requests.models import Models
from service.requests.running_quantile import RunningQuantile
from service.telemetry.metrics import Metrics

FIRST_ANSWER_S = 1e-3  # from a job's last step to its answer, until it is measured


@dataclass(frozen=True)
class ServiceState:
    models: Models
    engine: Engine
    metrics: Metrics
    cache: Cache
    coalescer: Coalescer = field(default_factory=Coalescer)
    decoder: Decoder = field(default_factory=Decoder)
    in_flight: InFlight = field(default_factory=InFlight)
    answer_time: RunningQuantile = field(default_factory=lambda: RunningQuantile(FIRST_ANSWER_S))
