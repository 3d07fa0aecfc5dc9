"""What the handlers share: the models served, the engine, and how far along the service is."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import structlog

from service import bundle, frontier
from service.bundle import Bundle
from service.engine import Engine
from service.errors import Unavailable, UnknownMethod
from service.metrics import Metrics
from service.runtime import Runtime
from service.scheduler import Scheduler
from service.schemas import Readiness, Status
from service.settings import Settings

log = structlog.get_logger()

OpenRuntime = Callable[[Bundle, int], Runtime]


class Service:
    """Made at once; `load` and `drain` take their time and are called off the event loop."""

    def __init__(self, settings: Settings, open_runtime: OpenRuntime) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.status: Literal["starting", "ready", "draining"] = "starting"
        self.bundles: dict[str, Bundle] = {}
        self.failed_bundles: dict[str, str] = {}
        self._open_runtime = open_runtime
        self._points: list[frontier.Point] = []
        self._runtimes: dict[str, Runtime] = {}
        self.engine = Engine(
            self._runtimes, Scheduler(settings.max_batch), self.metrics, max_queued_images=settings.max_queued_images
        )
        self.metrics.engine_up.set_function(lambda: self.status != "ready" or self.engine.alive)
        self.metrics.queue_limit.set(settings.max_queued_images)

    def load(self) -> None:
        """Loads and warms up every bundle of the folder, then starts the engine; slow, so not for the event loop."""
        served: dict[str, Bundle] = {}
        bundles, failed = bundle.load_all(self.settings.bundles)
        for name, loaded in bundles.items():
            try:
                runtime = self._open_runtime(loaded, self.settings.threads)
                warm_up(runtime, loaded, self.settings.max_batch)
            except Exception as error:  # whatever a runtime raises on a graph that it cannot run
                failed[loaded.folder.name] = f"{loaded.step_file}: {error}"
                continue
            self._runtimes[name] = runtime
            served[name] = loaded
            self.metrics.model_info.labels(name, loaded.manifest.family, loaded.digest).set(1)
            self.metrics.publish_measured(name, loaded.manifest.measured.get("points", []))
            log.info("model ready", method=name, digest=loaded.digest[:12])
        self.metrics.failed_bundles.set(len(failed))
        for folder, reason in failed.items():
            log.error("bundle refused", folder=folder, reason=reason)
        if not served:
            log.error("no model to serve", bundles=str(self.settings.bundles))
        self._points = frontier.points(served.values())
        self.bundles, self.failed_bundles = served, failed  # whole, as the event loop reads them meanwhile
        self.engine.start()
        self.status = "ready"

    def drain(self) -> None:
        """Ends the engine once every accepted request has its answer."""
        self.status = "draining"
        self.engine.stop()

    def find(self, method: str) -> Bundle:
        """The bundle that serves `method`. Raises Unavailable while starting or draining, else UnknownMethod."""
        self._require_ready()
        if method not in self.bundles:
            raise UnknownMethod(method, list(self.bundles))
        return self.bundles[method]

    def measured_points(self) -> list[frontier.Point]:
        """What method `auto` chooses from. Raises Unavailable while starting or draining."""
        self._require_ready()
        return self._points

    def _require_ready(self) -> None:
        if self.status != "ready":
            raise Unavailable(f"the service is {self.status}")

    def readiness(self) -> Readiness:
        return Readiness(status=self._status(), methods=list(self.bundles), failed_bundles=self.failed_bundles)

    def _status(self) -> Status:
        if self.status != "ready":
            return self.status
        if not self.bundles:
            return "no model"
        return "ready" if self.engine.alive else "engine stopped"


def warm_up(runtime: Runtime, loaded: Bundle, max_batch: int) -> None:
    """Runs a step, and what follows the last one, of one row and of the largest batch.

    Raises ValueError if a result is misshapen or not finite.
    """
    for n in (1, max_batch):
        inputs = loaded.first_step(n)
        x, _ = runtime.step(inputs)
        if x.shape != inputs["x"].shape:
            raise ValueError(f"the step gives x of shape {x.shape} for one of {inputs['x'].shape}")
        images = runtime.decode(x)
        if images.shape != (n, *loaded.manifest.shape):
            raise ValueError(f"the images have shape {images.shape}, not {(n, *loaded.manifest.shape)}")
        if not np.isfinite(images).all():
            raise ValueError("the step gives numbers that are not finite")
