"""An engine in its real threads over toy networks, and a job's images computed without it."""

import threading
import time
from collections.abc import Callable
from typing import Any

from bundle.loading import Bundle
from service.engine.admission import Admission
from service.engine.denoise import denoise
from service.engine.jobs import Job
from service.engine.loop import Engine
from service.engine.placement import Placement
from service.engine.runtime import Array, HostStates, Runtime, StepInputs
from service.engine.scheduler import Scheduler
from service.requests.request import GenerateRequest
from service.requests.resolve import job_of, resolve
from service.requests.uploads import read
from service.telemetry.metrics import Metrics
from tests.conftest import ToyRuntime


class Held(ToyRuntime):
    """Waits in its first step until `go` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.go = threading.Event(), threading.Event()

    def step(self, inputs: StepInputs) -> tuple[HostStates, HostStates]:
        self.entered.set()
        assert self.go.wait()
        return super().step(inputs)


def job(bundle: Bundle, **request: Any) -> Job:
    """The job of a request, as the service makes it."""
    return job_with({}, bundle, **request)


def inversion(bundle: Bundle, **request: Any) -> Job:
    """The job from the image of a request to x_T."""
    return job_with({"inverts": True, "strength": None}, bundle, **request)


def job_with(changes: dict[str, Any], bundle: Bundle, **request: Any) -> Job:
    generate = GenerateRequest.model_validate({"method": bundle.manifest.name, **request})
    model = Placement(bundle, "cpu", bundle.manifest.digest)
    uploads = read(generate, model)
    sampling = resolve(model, generate, uploads=uploads).model_copy(update=changes)
    return job_of(model, sampling, generate, uploads, id="", submitted_s=0.0, answer_s=0.0)


def new_engine(
    runtimes: dict[str, Runtime],
    *,
    max_batch: int = 4,
    max_queued_images: int = 100,
    workers: int = 1,
    policy: type[Scheduler] = Scheduler,
    clock: Callable[[], float] = time.perf_counter,
) -> Engine:
    """Not started yet."""
    scheduler = policy(max_batch, workers=workers)
    return Engine(runtimes, scheduler, Admission(scheduler, max_queued_images, 60.0), Metrics(), clock)


def toy_engine(toy: Bundle, runtime: Runtime, **options: Any) -> Engine:
    """Started, for the toy alone."""
    engine = new_engine({toy.manifest.digest: runtime}, **options)
    engine.start()
    return engine


async def run(engine: Engine, job: Job) -> Job:
    return await engine.submit(job)


def alone(job: Job) -> Array:
    """A job's images computed without an engine, a row at a time; (n, C, H, W)."""
    return denoise([job], ToyRuntime(), max_batch=1)


def sample(engine: Engine, name: str, **labels: str) -> float:
    value = engine.observer.registry.get_sample_value(name, labels)  # type: ignore[attr-defined]
    assert value is not None
    return value


def is_empty(engine: Engine) -> bool:
    """Whether nothing is left in it."""
    return not engine.jobs and engine.images("active") == engine.images("waiting") == 0
