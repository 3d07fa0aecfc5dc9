"""The models that are served: loaded from the bundle folder, warmed up, replaced when it changes."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path

import structlog

from bundle import files, loading
from bundle.files import BundleError
from bundle.loading import Bundle
from service.engine.loop import Engine
from service.engine.placement import Placement
from service.engine.runtime import Runtime
from service.errors import Unavailable, UnknownMethod
from service.registry.reloads import Reloads
from service.registry.warmup import fill, warm_up
from service.registry.watch import Fingerprint, fingerprint
from service.requests.models import Readiness, Status
from service.runtimes.choice import Device
from service.telemetry.metrics import Metrics

log = structlog.get_logger()

OpenRuntime = Callable[[Placement, int], Runtime]


AWAY = "the bundles' folder"  # in place of a bundle's folder, where that one has the fault


class Registry:
    """Made at once. `reload` returns at once too; `drain` takes its time and is called off the event loop."""

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
        self._failures = device.failures if open_runtime is None else lambda bundles, max_batch: {}
        self._phase: Status = "starting"
        self._models: dict[str, Placement] = {}
        self._failed_bundles: dict[str, str] = {}
        self._reloads = Reloads(self._reload)
        metrics.engine_up.set_function(lambda: self._phase != "ready" or engine.alive)

    def begin(self) -> None:
        """Starts the engine, once the first reload is done."""
        self._engine.start()
        self._phase = "ready"

    def reload(self) -> "Future[None]":
        """Loads and warms up what is new in the folder, then switches to it; what fails leaves the old one serving.

        Jobs of a replaced model finish on it: its runtime is let go by a later reload.
        """
        return self._reloads.request()

    def _reload(self) -> None:
        before = self._models
        self.loaded = fingerprint(self.folder)
        bundles, failed = self._load_bundles(before)
        models = {name: old for name, old in before.items() if {old.bundle.folder.name, AWAY} & failed.keys()}
        for name, bundle in bundles.items():
            try:
                models[name] = self._open(bundle)
            except Exception as error:  # whatever a runtime raises on a graph that it cannot run
                failed[bundle.folder.name] = f"{files.name(bundle.step_file)}: {error}"[:500]
                if name in before:
                    models[name] = before[name]
        models = dict(sorted(models.items()))
        self._report(models, failed)
        self._models, self._failed_bundles = models, failed  # whole: the event loop reads them meanwhile
        self._engine.retain({model.digest for model in (*models.values(), *before.values())})

    def _load_bundles(self, before: Mapping[str, Placement]) -> tuple[dict[str, Bundle], dict[str, str]]:
        """The bundles that can be run, by method, and what is wrong with the others, by folder.

        A folder that is away, or empty as a lost mount leaves it, is a fault of its own: what is served goes on.
        """
        try:
            bundles, failed = loading.load_all(self.folder, {model.bundle.folder.name for model in before.values()})
        except BundleError as error:
            return {}, {AWAY: str(error)}
        if before and not bundles and not failed:
            return {}, {AWAY: "it is empty"}
        new = [bundle for bundle in bundles.values() if not self._is_open(bundle)]
        failed |= self._failures(new, self._engine.scheduler.max_batch)
        return {name: bundle for name, bundle in bundles.items() if bundle.folder.name not in failed}, failed

    def _is_open(self, bundle: Bundle) -> bool:
        return any(model.bundle.manifest.digest == bundle.manifest.digest for model in self._models.values())

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
