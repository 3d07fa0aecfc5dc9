"""From a bundle's folder to a model that runs in the engine, within limits, whatever is wrong with the bundle."""

from collections.abc import Callable
from pathlib import Path

import structlog

from bundle import loading
from bundle.files import BundleError, shown
from service.engine.loop import Engine
from service.engine.placement import Placement
from service.engine.runtime import Runtime
from service.registry.attempts import Attempt
from service.registry.time_limit import TimeLimit, TimeLimitError
from service.registry.warmup import fill, time_preview, warm_up
from service.runtimes.choice import CPU, Device
from service.runtimes.sandbox import Sandbox
from service.settings import Settings

log = structlog.get_logger()

OpenRuntime = Callable[[Placement, int], Runtime]
SLACK_S = 5.0  # after `load_s`: a process that breaks its limit is ended first
STEPS_OF_OPENING = 20  # of the warm-up, at most, for the one large step that a model was tried with


class Opener:
    """`open_runtime` stands in for the device's: what it opens is not tried first."""

    def __init__(
        self, settings: Settings, engine: Engine, device: Device, limit: TimeLimit, open_runtime: OpenRuntime | None
    ) -> None:
        self._engine = engine
        self._device = device
        self._limit = limit
        self._load_s = settings.load_s
        self._threads = settings.threads
        self._sandbox = Sandbox(settings.load_s, settings.load_bytes)
        self._open_runtime = open_runtime
        self._tried: dict[str, int] = {}  # the most rows, by the digests of models to open

    def attempt(self, folder: Path) -> Attempt:
        """Verifies the bundle, and tries it out unless it is in the engine already. Raises nothing."""

        def work() -> Placement:
            model = self._device.place(loading.load(folder))
            if self._open_runtime is None and model.device == CPU and not self._is_open(model):
                self._tried[model.digest] = self._sandbox.check(model.bundle, self._engine.scheduler.max_batch)
            return model

        try:
            return Attempt(folder.name, self._limit.run(folder.name, self._load_s + SLACK_S, work))
        except Exception as error:
            return Attempt(folder.name, None, self._reason(folder.name, error))

    def open(self, model: Placement) -> str | None:
        """Takes the model into the engine, warmed up. Returns why not, if that fails."""
        if self._is_open(model):
            return None
        folder = model.bundle.folder.name
        try:
            self._limit.run(folder, STEPS_OF_OPENING * self._load_s, lambda: self._warmed_up(model))()
        except Exception as error:
            return self._reason(folder, error)
        return None

    def _warmed_up(self, model: Placement) -> Callable[[], None]:
        """What puts the model, which is warmed up now, into the engine: not a thread's own, which may be too late."""
        scheduler = self._engine.scheduler
        runtime = (self._open_runtime or self._device.open)(model, self._threads)
        curve = warm_up(runtime, model.bundle, self._tried.pop(model.digest, scheduler.max_batch))
        fill(runtime, model.bundle, max(curve), scheduler.workers)
        preview_s = time_preview(runtime, model.bundle)

        def install() -> None:
            self._engine.install(model.digest, runtime, curve, preview_s)
            log.info("model ready", method=model.name, digest=model.digest[:12], seconds_a_step=curve)

        return install

    def close(self) -> None:
        """Ends what is being tried."""
        self._sandbox.close()

    def _is_open(self, model: Placement) -> bool:
        return model.digest in self._engine.runtimes and model.digest not in self._engine.out_of_service

    def _reason(self, folder: str, error: Exception) -> str:
        """Why a bundle is refused, for everybody: of an error that nobody foresaw, its kind alone."""
        if isinstance(error, BundleError):
            return str(error)
        if isinstance(error, TimeLimitError):
            return f"{shown(folder)}: {error}"
        log.error("loading failed", folder=shown(folder), exc_info=error)
        return f"{shown(folder)}: {type(error).__name__}; the server's log says more"
