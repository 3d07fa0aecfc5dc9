"""NVIDIA's driver as `driver.Driver`, by cuda-bindings: only the GPU's environment has them, so import it late."""

import ctypes
import threading
import weakref
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from cuda.bindings import driver as cu
from cuda.bindings import nvrtc

from service.runtimes.cuda.driver import Address, Bytes, CudaGraph, DriverError, Event, Stream

SOURCE = Path(__file__).with_name("rows.cu")
THREADS = 256  # of a block


class CudaDriver:
    """The first device that CUDA_VISIBLE_DEVICES allows. Raises DriverError if there is none.

    It uses the device's primary context, as TensorRT and ONNX Runtime do. Its resources are freed with it.
    """

    def __init__(self) -> None:
        self._thread = threading.local()
        self._resources: list[tuple[Any, Any]] = []  # the function that frees each, and its handle
        _call(cu.cuInit, 0)
        if not _call(cu.cuDeviceGetCount):
            raise DriverError("the NVIDIA driver finds no GPU")
        self._device = _call(cu.cuDeviceGet, 0)
        self._context = _call(cu.cuDevicePrimaryCtxRetain, self._device)
        name = _call(cu.cuDeviceGetName, 256, self._device).partition(b"\0")[0].decode()
        attribute = cu.CUdevice_attribute
        major, minor = (
            _call(cu.cuDeviceGetAttribute, capability, self._device)
            for capability in (
                attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        self.architecture = f"sm_{major}{minor}"
        self.name = f"{name} {self.architecture}"
        weakref.finalize(self, free, self._context, self._resources).atexit = False
        module = self._call(cu.cuModuleLoadData, compiled(self.architecture))
        self._gather = self._call(cu.cuModuleGetFunction, module, b"gather")
        self._scatter = self._call(cu.cuModuleGetFunction, module, b"scatter")
        self._mix = self._call(cu.cuModuleGetFunction, module, b"mix")

    def allocate(self, size: int) -> Address:
        address = self._make(cu.cuMemAlloc, size, undo=cu.cuMemFree)
        self._call(cu.cuMemsetD8, address, 0, size)
        return int(address)

    def pin(self, size: int) -> Bytes:
        address = self._make(cu.cuMemHostAlloc, size, 0, undo=cu.cuMemFreeHost)
        memory = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(int(address)))
        memory[:] = 0
        return memory

    def stream(self) -> Stream:
        flags = cu.CUstream_flags.CU_STREAM_NON_BLOCKING
        return Stream(int(self._make(cu.cuStreamCreate, flags, undo=cu.cuStreamDestroy)))

    def event(self) -> Event:
        flags = cu.CUevent_flags.CU_EVENT_DISABLE_TIMING
        return Event(int(self._make(cu.cuEventCreate, flags, undo=cu.cuEventDestroy)))

    def upload(self, to: Address, source: Bytes, stream: Stream) -> None:
        self._call(cu.cuMemcpyHtoDAsync, to, source.ctypes.data, len(source), stream)

    def download(self, to: Bytes, source: Address, stream: Stream) -> None:
        self._call(cu.cuMemcpyDtoHAsync, to.ctypes.data, source, len(to), stream)

    def copy(self, to: Address, source: Address, size: int, stream: Stream) -> None:
        self._call(cu.cuMemcpyDtoDAsync, to, source, size, stream)

    def gather(self, to: Address, pool: Address, places: Address, rows: int, floats: int, stream: Stream) -> None:
        self._launch_rows(self._gather, (to, pool, places, floats), rows, stream)

    def scatter(self, pool: Address, source: Address, places: Address, rows: int, floats: int, stream: Stream) -> None:
        self._launch_rows(self._scatter, (pool, source, places, floats), rows, stream)

    def mix(self, pool: Address, places: Address, weights: Address, rows: int, floats: int, stream: Stream) -> None:
        self._launch_rows(self._mix, (pool, places, weights, floats), rows, stream)

    def record(self, event: Event, stream: Stream) -> None:
        self._call(cu.cuEventRecord, event, stream)

    def wait(self, stream: Stream, event: Event) -> None:
        self._call(cu.cuStreamWaitEvent, stream, event, 0)

    def synchronize(self, event: Event) -> None:
        self._call(cu.cuEventSynchronize, event)

    def begin_capture(self, stream: Stream) -> None:
        mode = cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL  # other threads may load models meanwhile
        self._call(cu.cuStreamBeginCapture, stream, mode)

    def end_capture(self, stream: Stream) -> CudaGraph:
        graph = self._call(cu.cuStreamEndCapture, stream)
        executable = self._make(cu.cuGraphInstantiate, graph, 0, undo=cu.cuGraphExecDestroy)
        self._call(cu.cuGraphDestroy, graph)
        return CudaGraph(int(executable))

    def launch(self, graph: CudaGraph, stream: Stream) -> None:
        self._call(cu.cuGraphLaunch, graph, stream)

    def free_memory(self) -> int:
        free, _total = self._call(cu.cuMemGetInfo)
        return int(free)

    def _launch_rows(self, kernel: Any, values: Sequence[int], rows: int, stream: Stream) -> None:
        blocks = -(-values[-1] // THREADS)
        types = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
        self._call(cu.cuLaunchKernel, kernel, blocks, rows, 1, THREADS, 1, 1, 0, stream, (tuple(values), types), 0)

    def _make(self, function: Any, *arguments: Any, undo: Any) -> Any:
        handle = self._call(function, *arguments)
        self._resources.append((undo, handle))
        return handle

    def _call(self, function: Any, *arguments: Any) -> Any:
        """The call's result, in the device's context, which each thread has to set. Raises DriverError."""
        if not hasattr(self._thread, "ready"):
            _call(cu.cuCtxSetCurrent, self._context)
            self._thread.ready = True
        return _call(function, *arguments)


def free(context: Any, resources: list[tuple[Any, Any]]) -> None:
    """Frees the resources, the last first, in whichever thread the driver was dropped."""
    _call(cu.cuCtxSetCurrent, context)
    for undo, handle in reversed(resources):
        _call(undo, handle)


@cache
def compiled(architecture: str) -> bytes:
    """The cubin of `rows.cu` for an architecture, e.g. sm_89. Raises DriverError with the compiler's log."""
    program = _call(nvrtc.nvrtcCreateProgram, SOURCE.read_bytes(), SOURCE.name.encode(), 0, [], [])
    (status,) = nvrtc.nvrtcCompileProgram(program, 1, [f"--gpu-architecture={architecture}".encode()])
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        log = b" " * _call(nvrtc.nvrtcGetProgramLogSize, program)
        _call(nvrtc.nvrtcGetProgramLog, program, log)
        raise DriverError(f"{SOURCE.name} for {architecture}: {log.decode()}")
    cubin: bytes = b" " * _call(nvrtc.nvrtcGetCUBINSize, program)
    _call(nvrtc.nvrtcGetCUBIN, program, cubin)
    return cubin


def _call(function: Any, *arguments: Any) -> Any:
    """The call's results without its status. Raises DriverError with the call and its status, or without a driver."""
    try:
        status, *results = function(*arguments)
    except RuntimeError as error:  # cuda-bindings finds no libcuda
        raise DriverError(f"{function.__name__}: {error}") from error
    if int(status) != 0:
        raise DriverError(f"{function.__name__}: {status.name}")
    return results[0] if len(results) == 1 else tuple(results)
