"""The models that are served: loaded from the bundle folder, warmed up, replaced when it changes."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from bundle import manifest
from bundle.manifest import Bundle
from service.engine.loop import Engine
from service.engine.placement import Placement
from service.engine.runtime import Runtime
from service.errors import Unavailable, UnknownMethod
from service.registry.warmup import fill, warm_up
from service.registry.watch import Fingerprint, fingerprint
from service.requests.models import Readiness, Status
from service.runtimes.placement import Device
from service.telemetry.metrics import Metrics

log = structlog.get_logger()

OpenRuntime = Callable[[Placement, int], Runtime]


class Registry:
    """Made at once; `load`, `reload` and `drain` take their time and are called off the event loop."""

    def __init__(
        self,
        folder: Path,
        engine: Engine,
        device: Device,
        metrics: Metrics,
        threads: int,
        open_runtime: OpenRuntime | None = None,
    ) -> None:
        self.folder = folder
        self.loaded: Fingerprint = frozenset()  # of the bundle folder, by the last reload
        self._engine = engine
        self._device = device
        self._metrics = metrics
        self._threads = threads
        self._open_runtime = open_runtime or device.open
        self._phase: Status = "starting"
        self._models: dict[str, Placement] = {}
        self._failed_bundles: dict[str, str] = {}
        self._loading = threading.Lock()
        metrics.engine_up.set_function(lambda: self._phase != "ready" or engine.alive)

    def load(self) -> None:
        """Loads and warms up every bundle of the folder, then starts the engine."""
        self.reload()
        self._engine.start()
        self._phase = "ready"

    def reload(self) -> None:
        """Loads and warms up what is new in the folder, then switches to it; what fails leaves the old one serving.

        Jobs of a replaced model finish on it: its runtime is let go by a later reload.
        """
        with self._loading:
            before = self._models
            self.loaded = fingerprint(self.folder)
            bundles, failed = manifest.load_all(self.folder)
            models = {name: old for name, old in before.items() if old.bundle.folder.name in failed}
            for name, bundle in bundles.items():
                try:
                    models[name] = self._open(bundle)
                except Exception as error:  # whatever a runtime raises on a graph that it cannot run
                    failed[bundle.folder.name] = f"{bundle.step_file}: {error}"
                    if name in before:
                        models[name] = before[name]
            self._report(models, failed)
            self._models, self._failed_bundles = models, failed  # whole: the event loop reads them meanwhile
            self._engine.retain({model.digest for model in (*models.values(), *before.values())})

    def drain(self) -> None:
        """Ends the engine once every accepted request has its answer."""
        self._phase = "draining"
        self._engine.stop()

    def find(self, method: str) -> Placement:
        """The model that serves `method`. Raises Unavailable while starting or draining, else UnknownMethod."""
        if self._phase != "ready":
            raise Unavailable(f"the service is {self._phase}")
        if method not in self._models:
            raise UnknownMethod(method, list(self._models))
        return self._models[method]

    def served(self) -> Mapping[str, Placement]:
        return self._models

    def readiness(self) -> Readiness:
        out = self._engine.out_of_service
        models = self._models.items()
        return Readiness(
            status=self._status(),
            methods=[name for name, model in models if model.digest not in out],
            failed_bundles=self._failed_bundles,
            out_of_service=[name for name, model in models if model.digest in out],
        )

    def _status(self) -> Status:
        if self._phase != "ready":
            return self._phase
        if not self._engine.alive:
            return "engine stopped"
        if all(model.digest in self._engine.out_of_service for model in self._models.values()):
            return "no model"
        return "ready"

    def _open(self, bundle: Bundle) -> Placement:
        """The model in its place, ready to run in the engine."""
        model = self._device.place(bundle)
        if model.digest in self._engine.runtimes and model.digest not in self._engine.out_of_service:
            return model
        scheduler = self._engine.scheduler
        runtime = self._open_runtime(model, self._threads)
        curve = warm_up(runtime, bundle, scheduler.max_batch)
        fill(runtime, bundle, scheduler.max_batch, scheduler.workers)
        self._engine.install(model.digest, runtime, curve)
        log.info("model ready", method=model.name, digest=model.digest[:12], seconds_a_step=curve)
        return model

    def _report(self, models: Mapping[str, Placement], failed: Mapping[str, str]) -> None:
        self._metrics.publish_models(models)
        self._metrics.failed_bundles.set(len(failed))
        for folder, reason in failed.items():
            log.error("bundle refused", folder=folder, reason=reason)
        if not models:
            log.error("no model to serve", bundles=str(self.folder))
