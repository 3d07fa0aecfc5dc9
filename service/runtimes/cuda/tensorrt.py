"""An engine of TensorRT, or TensorRT for RTX, as a `Network`."""

from importlib import import_module
from pathlib import Path
from typing import Any

import structlog

from bundle.files import BundleError
from bundle.gpu_manifest import Engines, Target
from service.runtimes.cuda.driver import Address, Driver, DriverError, Stream

MODULES: dict[Target, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx_bindings"}

log = structlog.get_logger()


class TensorRtNetwork:
    """One context for each batch size, so that each is bound once; they share memory, as one runs at a time."""

    def __init__(self, driver: Driver, path: Path, engines: Engines) -> None:
        """Raises BundleError for an engine that the installed TensorRT cannot load."""
        trt = installed(path, engines)
        self._buckets = engines.buckets
        self.capturable = True
        self._graph = engines.graphs[path.name]
        self._trt, self._target = trt, engines.target
        self._log = error_log(trt)
        self._runtime = trt.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise BundleError(f"{path}: {'; '.join(self._log.errors) or 'TensorRT cannot load it'}")
        self._scratch_bytes = max(self._engine.device_memory_size_v2, 1)
        self._scratch = driver.allocate(self._scratch_bytes)
        self._contexts: dict[int, Any] = {}

    def bind(self, bucket: int, addresses: dict[str, Address], stream: Stream) -> None:
        profile = self._buckets.index(bucket)
        context = self._context()
        context.set_device_memory(self._scratch, self._scratch_bytes)
        fine = context.set_optimization_profile_async(profile, stream)
        for name, shape in self._graph.profiles[profile].items():
            fine = fine and context.set_input_shape(name, tuple(shape))
        for tensor in (*self._graph.inputs, *self._graph.outputs):
            fine = fine and context.set_tensor_address(tensor.name, addresses[tensor.name])
        if not fine:
            raise DriverError(f"TensorRT takes no batch of {bucket}: {'; '.join(self._log.errors)}")
        if self._target == "tensorrt-rtx" and not context.is_stream_capturable(stream):
            log.warning("TensorRT's steps cannot be captured in a CUDA graph: they are launched one by one")
            self.capturable = False
        self._contexts[bucket] = context

    def enqueue(self, bucket: int, stream: Stream) -> None:
        if not self._contexts[bucket].execute_async_v3(stream):
            raise DriverError(f"TensorRT does not run: {'; '.join(self._log.errors)}")

    def _context(self) -> Any:
        managed = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if self._target == "tensorrt":
            return self._engine.create_execution_context(managed)
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(managed)
        # Compile a shape's kernels when it is set: compiled later, they would not be in a captured graph.
        eager = self._trt.DynamicShapesKernelSpecializationStrategy.EAGER
        config.dynamic_shapes_kernel_specialization_strategy = eager
        return self._engine.create_execution_context(config)


def installed(path: Path, engines: Engines) -> Any:
    """The module that the engine is for. Raises BundleError if it is not installed, or has another version."""
    name = MODULES[engines.target]
    try:
        trt: Any = import_module(name)
    except ImportError as error:
        raise BundleError(f"{path}: it needs {name} {engines.version}: {error}") from error
    if trt.__version__ != engines.version:
        raise BundleError(f"{path}: built by {name} {engines.version}, and here is {trt.__version__}: export it again")
    return trt


def error_log(trt: Any) -> Any:
    """A logger that keeps the errors, for the message of what failed."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    return Log()
