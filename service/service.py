"""What the handlers share: the models served, the engine, and how far along the service is."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import structlog

from service import bundle, frontier, watch
from service.bundle import Bundle
from service.cache import Cache, Flights
from service.costs import Tail
from service.desk import Desk
from service.devices import Device
from service.engine import Engine
from service.errors import Unavailable, UnknownMethod
from service.metrics import Metrics
from service.runtime import Runtime
from service.scheduler import Scheduler
from service.schemas import Readiness, Status
from service.settings import Settings

log = structlog.get_logger()

ANSWER_S = 1e-3  # from a job's last step to its answer, until that was measured
FILLS = 3  # full batches of each worker
WARM_UPS, WARM_UP_ROWS = 4, 16  # steps of each size, and rows, at least: the first steps are slower

OpenRuntime = Callable[[Bundle, int], Runtime]


class Service:
    """Made at once; `load` and `drain` take their time and are called off the event loop."""

    def __init__(self, settings: Settings, device: Device, open_runtime: OpenRuntime | None = None) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.status: Literal["starting", "ready", "draining"] = "starting"
        self.bundles: dict[str, Bundle] = {}
        self.failed_bundles: dict[str, str] = {}
        self.seen = watch.Look()  # of the bundle folder, by the last reload
        self._device = device
        self._open_runtime = open_runtime or device.open
        self._points: list[frontier.Point] = []
        self._runtimes: dict[str, Runtime] = {}  # by digest; those of the last reload's bundles stay for their rows
        self._loading = threading.Lock()
        self._scheduler = Scheduler(settings.max_batch, workers=device.workers(settings.workers))
        self.engine = Engine(
            self._runtimes,
            self._scheduler,
            self.metrics,
            settings.max_queued_images,
            settings.max_backlog_s,
        )
        self.metrics.engine_up.set_function(lambda: self.status != "ready" or self.engine.alive)
        self.metrics.workers.set(self._scheduler.workers)
        self.metrics.queue_limit.set(settings.max_queued_images)
        self.desk = Desk()
        self.cache = Cache(settings.cache_bytes)
        self.flights = Flights()
        self.answering = Tail(ANSWER_S)

    def load(self) -> None:
        """Loads and warms up every bundle of the folder, then starts the engine; slow, so not for the event loop."""
        self.reload()
        self.engine.start()
        self.status = "ready"

    def reload(self) -> None:
        """Loads and warms up what is new in the folder, then switches to it; what fails leaves the old one serving.

        Jobs of a replaced model finish on it: its runtime is let go by the reload after this one.
        """
        with self._loading:
            before = self.bundles
            self.seen = watch.look(self.settings.bundles)
            bundles, failed = bundle.load_all(self.settings.bundles)
            served = {name: old for name, old in before.items() if old.folder.name in failed}
            for name, loaded in bundles.items():
                try:
                    self._device.claim(loaded)
                    self._open(loaded)
                    served[name] = loaded
                except Exception as error:  # whatever a runtime raises on a graph that it cannot run
                    failed[loaded.folder.name] = f"{loaded.step_file}: {error}"
                    if name in before:
                        served[name] = before[name]
            self._report(served, failed)
            self._points = frontier.points(served.values())
            self.bundles, self.failed_bundles = served, failed  # whole, as the event loop reads them meanwhile
            needed = {each.digest for each in (*served.values(), *before.values())}
            for digest in set(self._runtimes) - needed:
                del self._runtimes[digest]

    def _open(self, loaded: Bundle) -> None:
        if loaded.digest in self._runtimes and loaded.digest not in self.engine.out_of_service:
            return
        runtime = self._open_runtime(loaded, self.settings.threads)
        curve = warm_up(runtime, loaded, self.settings.max_batch)
        fill(runtime, loaded, self.settings.max_batch, self._scheduler.workers)
        self._scheduler.costs.set(loaded.digest, curve)
        self._runtimes[loaded.digest] = runtime
        self.engine.restore(loaded.digest)
        log.info("model ready", method=loaded.manifest.name, digest=loaded.digest[:12], seconds_a_step=curve)

    def _report(self, served: dict[str, Bundle], failed: dict[str, str]) -> None:
        self.metrics.model_info.clear()
        self.metrics.measured.clear()
        for name, each in served.items():
            self.metrics.model_info.labels(name, each.manifest.family, each.digest, each.device).set(1)
            self.metrics.publish_measured(name, each.manifest.measured.get("points", []))
        self.metrics.failed_bundles.set(len(failed))
        for folder, reason in failed.items():
            log.error("bundle refused", folder=folder, reason=reason)
        if not served:
            log.error("no model to serve", bundles=str(self.settings.bundles))

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
        out = self.engine.out_of_service
        return Readiness(
            status=self._status(),
            methods=[name for name, each in self.bundles.items() if each.digest not in out],
            failed_bundles=self.failed_bundles,
            out_of_service=[name for name, each in self.bundles.items() if each.digest in out],
        )

    def _status(self) -> Status:
        if self.status != "ready":
            return self.status
        if not self.engine.alive:
            return "engine stopped"
        if all(each.digest in self.engine.out_of_service for each in self.bundles.values()):
            return "no model"
        return "ready"


def warm_up(runtime: Runtime, loaded: Bundle, max_batch: int) -> dict[int, float]:
    """Runs steps of growing batches, and what follows the last one; seconds of a step by rows.

    Raises ValueError if a result is misshapen or not finite.
    """
    curve = {}
    for n in sorted({*(2**k for k in range(max_batch.bit_length())), max_batch}):
        inputs = loaded.first_step(n)
        times_s = []
        for _ in range(max(WARM_UPS, WARM_UP_ROWS // n)):
            start_s = time.perf_counter()
            x, _x0 = runtime.step(inputs)
            times_s.append(max(time.perf_counter() - start_s, 1e-6))
        curve[n] = min(times_s[1:])  # the first one of a size sets things up; what else is done here only adds
        if x.shape != inputs["x"].shape:
            raise ValueError(f"the step gives x of shape {x.shape} for one of {inputs['x'].shape}")
        images = runtime.decode(x)
        if images.shape != (n, *loaded.manifest.shape):
            raise ValueError(f"the images have shape {images.shape}, not {(n, *loaded.manifest.shape)}")
        if not np.isfinite(images).all():
            raise ValueError("the step gives numbers that are not finite")
    return curve


def fill(runtime: Runtime, loaded: Bundle, rows: int, workers: int) -> None:
    """Full batches on every worker at once: what memory that takes is taken now, and not some day under load."""
    inputs = loaded.first_step(rows)
    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(runtime.step, inputs) for _ in range(FILLS * workers)]:
            runtime.decode(done.result()[0])
