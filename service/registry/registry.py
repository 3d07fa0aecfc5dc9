"""The models that are served: loaded from the bundle folder, warmed up, replaced when it changes."""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

import structlog

from bundle.files import BundleError, shown
from bundle.folders import bundle_folders, without_the_name
from service.engine.loop import Engine
from service.engine.placement import Placement
from service.errors import Unavailable, UnknownMethod
from service.registry.attempts import Attempt, in_groups
from service.registry.opening import Opener, OpenRuntime
from service.registry.reloads import Reloads
from service.registry.selection import chosen
from service.registry.time_limit import TimeLimit, TimeLimitError
from service.registry.watch import Fingerprint, Watch, fingerprint
from service.requests.models import Readiness, Status
from service.runtimes.choice import Device
from service.settings import Settings
from service.telemetry.metrics import Metrics

log = structlog.get_logger()

END_S = 5.0  # how long the end of the service waits for a model that is being opened
AWAY = "the bundles' folder"  # in place of a bundle's folder, where that one has the fault
NOT_YET = "it is still being tried"


class Registry:
    """Made at once. `reload` returns at once too; `drain` takes its time and is called off the event loop."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        device: Device,
        metrics: Metrics,
        open_runtime: OpenRuntime | None = None,
    ) -> None:
        self.folder = settings.bundles
        self._methods = settings.methods
        self._engine = engine
        self._metrics = metrics
        self._load_s = settings.load_s
        self._limit = TimeLimit(metrics.abandoned_loads.inc)
        self._opener = Opener(settings, engine, device, self._limit, open_runtime)
        self._phase: Status = "starting"
        self._starting = threading.Lock()  # over the phase, while that changes
        self._models: dict[str, Placement] = {}
        self._failed_bundles: dict[str, str] = {}
        self._watch = Watch()
        self._reloads = Reloads(self._reload, self._is_due, settings.watch_s)
        metrics.engine_up.set_function(lambda: self._phase != "ready" or engine.alive)

    def reload(self) -> "Future[None]":
        """Loads and warms up what is new in the folder, then switches to it; what fails leaves the old one serving.

        Jobs of a replaced model finish on it: its runtime is let go by a later reload. The first reload starts the
        engine, as soon as there is a model: one that takes long to try keeps no other from serving.
        """
        return self._reloads.request()

    def _reload(self) -> None:
        before = self._models
        try:
            self._watch.loaded, folders = self._look()
            if before and not folders:
                raise BundleError("it is empty")  # as a lost mount leaves it
        except (BundleError, TimeLimitError) as error:
            self._watch.loaded = frozenset()  # what comes back is a change
            self._finish({AWAY: str(error)}, before)
            return
        failed: dict[str, str] = dict.fromkeys((folder.name for folder in folders), NOT_YET)
        holders = {name: model.bundle.folder.name for name, model in before.items()}
        holders = {name: folder for name, folder in holders.items() if folder in failed}
        for group in in_groups(folders, self._opener.attempt, self._engine.scheduler.workers):
            self._open_group(group, holders, failed)
            self._publish(failed)
            if self._models:
                self._begin()
            if self._phase == "draining":
                return
        self._finish(failed, before)

    def _look(self) -> tuple[Fingerprint, Sequence[Path]]:
        """The bundles to serve. Raises BundleError or TimeLimitError if the folder is away."""

        def work() -> tuple[Fingerprint, Sequence[Path]]:
            return fingerprint(self.folder), chosen(bundle_folders(self.folder), self._methods)

        return self._limit.run(AWAY, self._load_s, work)

    def _open_group(self, group: Sequence[Attempt], holders: dict[str, str], failed: dict[str, str]) -> None:
        """Opens the models of these attempts, and notes what failed, by folder, and who holds which name."""
        models = {attempt.folder: attempt.model for attempt in group if attempt.model is not None}
        failed |= {attempt.folder: attempt.reason for attempt in group if attempt.model is None}
        for name, folder in list(holders.items()):
            if folder in models and models[folder].name != name:  # its model has another name now
                del holders[name]
        refused = without_the_name({folder: model.name for folder, model in models.items()}, holders)
        failed |= refused
        for folder, model in models.items():
            if folder in refused or self._phase == "draining":
                continue
            holders[model.name] = folder
            reason = self._opener.open(model)
            if reason is None:
                del failed[folder]
                self._models = dict(sorted({**self._models, model.name: model}.items()))  # whole: others read it
            else:
                failed[folder] = reason

    def _finish(self, failed: Mapping[str, str], before: Mapping[str, Placement]) -> None:
        """Lets go of models whose folder is gone. Those whose bundle failed now are served as they were."""
        self._models = {
            name: model
            for name, model in self._models.items()
            if before.get(name) is not model or {AWAY, model.bundle.folder.name} & failed.keys()
        }
        self._publish(failed)
        for folder, reason in self._failed_bundles.items():
            log.error("bundle refused", folder=folder, reason=reason)
        if not self._models:
            log.error("no model to serve", bundles=str(self.folder))
        self._engine.retain({model.digest for model in (*self._models.values(), *before.values())})
        self._begin()

    def _publish(self, failed: Mapping[str, str]) -> None:
        self._failed_bundles = {shown(folder): reason for folder, reason in failed.items()}
        self._metrics.publish_models(self._models)
        self._metrics.failed_bundles.set(len(failed))

    def _is_due(self) -> bool:
        """Whether the folder has changed; while it is away, as far as that was noticed."""
        try:
            now = self._limit.run(AWAY, self._load_s, lambda: fingerprint(self.folder))
        except TimeLimitError:
            return AWAY not in self._failed_bundles
        if due := self._watch.is_due(now):
            log.info("the bundle folder has changed", folder=str(self.folder))
        return due

    def _begin(self) -> None:
        """Starts the engine, once."""
        with self._starting:
            if self._phase == "starting":
                self._engine.start()
                self._phase = "ready"

    def drain(self) -> None:
        """Ends the engine once every accepted request has its answer."""
        with self._starting:
            self._phase = "draining"
        self._opener.close()
        self._reloads.end(END_S)
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
