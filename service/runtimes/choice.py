"""Where models are computed: `--device cpu`, `cuda`, or `auto`, which logs its choice."""

import hashlib
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import structlog

from bundle import gpu_manifest
from bundle.files import BundleError, name
from bundle.gpu_manifest import Engines
from bundle.loading import Bundle
from bundle.manifest import STEP
from service.engine.placement import Placement
from service.engine.runtime import Runtime
from service.runtimes.cpu import OrtRuntime, open_encoder
from service.runtimes.cuda.device_runtime import OPTIONAL, DeviceRuntime, Shape
from service.runtimes.cuda.driver import Driver, DriverError, Network
from service.runtimes.cuda.ort_cuda import OrtCudaNetwork
from service.runtimes.cuda.tensorrt import MODULES, TensorRtNetwork
from service.settings import Settings

log = structlog.get_logger()


CPU = "cpu"


class NoDevice(ValueError):
    """The requested device is not available; the message says why."""


class Device(Protocol):
    """Computes models."""

    def place(self, bundle: Bundle) -> Placement:
        """Where the bundle is computed. Raises BundleError if it cannot be computed here."""
        ...

    def open(self, model: Placement, threads: int) -> Runtime:
        """The runtime of a model that this device placed."""
        ...

    def workers(self, setting: int) -> int:
        """The number of steps to run at a time, if the settings have this number."""
        ...


class Cpu:
    """ONNX Runtime's CPU provider."""

    def place(self, bundle: Bundle) -> Placement:
        return Placement(bundle, CPU, bundle.manifest.digest)

    def open(self, model: Placement, threads: int) -> Runtime:
        return OrtRuntime(model.bundle, threads)

    def workers(self, setting: int) -> int:
        return setting


class Cuda:
    """A GPU. A bundle without engines is refused if the GPU is `required`; otherwise the CPU computes it."""

    def __init__(self, driver: Driver, *, images: int, max_batch: int, required: bool) -> None:
        self.driver, self.images, self.max_batch, self.required = driver, images, max_batch, required
        self._cpu = Cpu()

    def place(self, bundle: Bundle) -> Placement:
        try:
            folder, engines = gpu_manifest.load(bundle)
            architecture = self.driver.architecture
            if engines.architectures and architecture not in engines.architectures:
                built = ", ".join(engines.architectures)
                raise BundleError(f"{name(folder)}: built for {built}, and this is {architecture}: export it again")
            buckets = usable(engines, self._most_rows(bundle))
        except BundleError as error:
            if self.required:
                raise
            log.warning("computed on the CPU", method=bundle.manifest.name, reason=str(error))
            return self._cpu.place(bundle)
        sizes = ", ".join(map(str, buckets))
        device = f"{self.driver.name}, {engines.target} {engines.version} {engines.precision}, batches of {sizes}"
        # Another GPU gives other bits, and so may another batch size, unless `buckets_agree` says otherwise.
        size = "" if engines.buckets_agree else sizes
        deciding = f"{bundle.manifest.digest} {engines.digest} {self.driver.name} {size}"
        return Placement(bundle, device, hashlib.sha256(deciding.encode()).hexdigest())

    def open(self, model: Placement, threads: int) -> Runtime:
        if model.device == CPU:
            return self._cpu.open(model, threads)
        folder, engines = gpu_manifest.load(model.bundle)
        buckets = usable(engines, self._most_rows(model.bundle))
        # With a driver of its own, the runtime's memory is freed with it.
        return open_engines(open_driver(), model.bundle, folder, engines, images=self.images, buckets=buckets)

    def _most_rows(self, bundle: Bundle) -> int:
        """Of a batch: a guided image has two in any case."""
        return max(self.max_batch, 1 + bundle.manifest.guidance)

    def workers(self, setting: int) -> int:
        return 1  # it prepares a step while the device computes the one before, and the device runs one at a time


def choose(settings: Settings) -> Device:
    """The device of the settings. Raises NoDevice if it is missing; `auto` falls back to the CPU and logs it."""
    if settings.device == "cpu":
        return Cpu()
    try:
        driver = open_driver()
    except DriverError as error:
        if settings.device == "cuda":
            raise NoDevice(f"--device cuda: {error}") from error
        log.warning("no GPU: computing on the CPU", reason=str(error))
        return Cpu()
    log.info("computing on a GPU", device=driver.name)
    return Cuda(
        driver,
        images=settings.max_queued_images,
        max_batch=settings.max_batch,
        required=settings.device == "cuda",
    )


def open_driver() -> Driver:
    """The GPU's driver. Raises DriverError without one, or without the packages for it."""
    try:
        from service.runtimes.cuda.nvidia import CudaDriver
    except ImportError as error:
        raise DriverError(f"the packages of locks/gpu.txt are not installed ({error})") from error
    return CudaDriver()


def open_engines(
    driver: Driver,
    bundle: Bundle,
    folder: Path,
    engines: Engines,
    *,
    images: int,
    buckets: Sequence[int],
    graphs: bool = True,
) -> DeviceRuntime:
    """The runtime of the bundle's engines in `folder`. Raises BundleError or DriverError."""
    networks = {
        name.partition(".")[0]: open_network(driver, folder / name, engines, graphs=graphs) for name in engines.files
    }
    return DeviceRuntime(
        driver,
        networks["step"],
        networks.get("decode"),
        shape_of(bundle, engines),
        images=images,
        buckets=buckets,
        graphs=graphs,
        encode=open_encoder(bundle, threads=1),
    )


def shape_of(bundle: Bundle, engines: Engines) -> Shape:
    """Of a model's rows, by its manifest and by what its engine takes."""
    (step,) = (graph for name, graph in engines.graphs.items() if name.startswith(Path(STEP).stem))
    inputs = {tensor.name: tensor.shape for tensor in step.inputs}
    manifest = bundle.manifest
    columns, optional = inputs["coefficients"][1], frozenset(field.name for field in OPTIONAL) & inputs.keys()
    return Shape(manifest.state_shape, manifest.shape, manifest.z_dim, columns, optional)


def open_network(driver: Driver, path: Path, engines: Engines, *, graphs: bool) -> Network:
    """One of the engines. Raises BundleError or DriverError."""
    if engines.target in MODULES:
        return TensorRtNetwork(driver, path, engines)
    return OrtCudaNetwork(path, engines, graphs=graphs)


def usable(engines: Engines, max_batch: int) -> list[int]:
    """The batch sizes to use for batches of up to `max_batch`: one alone, unless all give the same bits.

    Raises BundleError if none is large enough.
    """
    largest = bisect_left(engines.buckets, max_batch)
    if largest == len(engines.buckets):
        raise BundleError(f"engines for batches of up to {engines.buckets[-1]}, and --max-batch is {max_batch}")
    return engines.buckets[: largest + 1] if engines.buckets_agree else [engines.buckets[largest]]
