"""Run by test_cuda.py in the GPU's environment, over the fake libcuda.so: real bindings, real NVRTC, no GPU.

ONNX Runtime computes a shipped model on the CPU between the driver's calls: the images must be those of the CPU's own
runtime. A step of copies alone, which can be captured, must give the expected rows.
"""

import ctypes
import gc
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np

from bundle.gpu_manifest import MAGNITUDE
from bundle.loading import Bundle, load
from service.engine.denoise import first_step
from service.engine.runtime import StepInputs
from service.runtimes.cpu import OrtRuntime
from service.runtimes.cuda.device_runtime import DeviceRuntime, Shape
from service.runtimes.cuda.driver import Address, DriverError, Stream
from service.runtimes.cuda.nvidia import CudaDriver, compiled
from tests.gpu.fake import following

BUCKETS = [1, 2, 4]


def array(address: Address, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype).reshape(shape)


class OnTheCpu:
    """The fake's device memory is the host's: the network computes there."""

    capturable = False

    def __init__(self, bundle: Bundle, shape: Shape) -> None:
        self.runtime, self.shape = OrtRuntime(bundle, threads=2), shape
        self.bound: dict[int, dict[str, Address]] = {}

    def bind(self, bucket: int, addresses: dict[str, Address], stream: Stream) -> None:
        self.bound[bucket] = addresses

    def enqueue(self, bucket: int, stream: Stream) -> None:
        at = self.bound[bucket]
        fields = {field.name: field for field in self.shape.fields}
        inputs = {n: array(at[n], (bucket, *fields[n].shape), fields[n].dtype) for n in at.keys() & fields.keys()}
        state = (bucket, *self.shape.state)
        states = {name: array(at[name], state, np.float32) for name in ("x", "x0_prev")}
        x, x0 = (after.array for after in self.runtime.step(StepInputs(**inputs, **states)))
        array(at["x_new"], state, np.float32)[:], array(at["x0"], state, np.float32)[:] = x, x0
        array(at[MAGNITUDE], (bucket,), np.float32)[:] = 1


class Copies(OnTheCpu):
    """x stays what it is, x0 becomes the noise, and the magnitude t."""

    capturable = True

    def __init__(self, driver: CudaDriver, shape: Shape) -> None:
        self.driver, self.shape = driver, shape
        self.bound = {}

    def enqueue(self, bucket: int, stream: Stream) -> None:
        at, size = self.bound[bucket], 4 * bucket * int(np.prod(self.shape.state))
        self.driver.copy(at["x_new"], at["x"], size, stream)
        self.driver.copy(at["x0"], at["noise"], size, stream)
        self.driver.copy(at[MAGNITUDE], at["t"], 4 * bucket, stream)


def computes_a_model(driver: CudaDriver, bundle: Bundle) -> None:
    shape = Shape(bundle.manifest.state_shape, bundle.manifest.shape, bundle.manifest.z_dim)
    gpu = DeviceRuntime(driver, OnTheCpu(bundle, shape), None, shape, images=8, buckets=BUCKETS)
    cpu = OrtRuntime(bundle, threads=2)
    inputs = first_step(bundle, 3)
    expected, got = cpu.step(inputs), gpu.step(inputs)
    for _ in range(2):
        expected = cpu.step(following(inputs, *expected))
        got = gpu.step(following(inputs, *got))
    assert gpu.decode(got[0]).tobytes() == expected[0].array.tobytes()


def captures(driver: CudaDriver, bundle: Bundle) -> None:
    shape = Shape((1, 3, 5), (1, 3, 5), 0)
    runtime = DeviceRuntime(driver, Copies(driver, shape), None, shape, images=8, buckets=BUCKETS)
    inputs = first_step(bundle, 3)
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal((2, 3, 1, 3, 5), dtype=np.float32)
    steps = replace(inputs, x=x, x0_prev=0 * x, noise=noise)
    got = runtime.step(steps)
    got = runtime.step(following(steps, *got, noise=2 * noise))
    assert runtime.decode(got[0]).tobytes() == x.tobytes()
    assert runtime.decode(got[1].select([2, 0])).tobytes() == (2 * noise)[[2, 0]].tobytes()
    elsewhere = threading.Thread(target=lambda: checks.append(runtime.decode(got[0]).tobytes() == x.tobytes()))
    checks: list[bool] = []  # a thread that has no context yet
    elsewhere.start()
    elsewhere.join()
    assert checks == [True]
    runtime.step(following(steps, *got, t=np.full(3, np.nan, dtype=np.float32)))
    bad = runtime.step(replace(steps, t=np.full(3, np.nan, dtype=np.float32)))
    try:
        runtime.decode(bad[0])
    except FloatingPointError:
        return
    raise AssertionError("a magnitude that is not a number went unseen")


def errors_name_the_call(driver: CudaDriver) -> None:
    for call, message in (
        (lambda: driver.allocate(1 << 40), "cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY"),
        (lambda: compiled("sm_1"), "rows.cu for sm_1: "),
    ):
        raised = ""
        try:
            call()
        except DriverError as error:
            raised = str(error)
        assert message in raised, raised


if __name__ == "__main__":
    driver, bundle = CudaDriver(), load(Path(sys.argv[1]))
    assert driver.name == "Fake GPU sm_89", driver.name
    assert driver.free_memory() == 1000
    computes_a_model(driver, bundle)
    captures(driver, bundle)
    errors_name_the_call(driver)
    held = ctypes.CDLL("libcuda.so.1").fake_held
    assert held() > 0
    del driver
    gc.collect()
    assert held() == 0, held()
    for architecture in ("sm_80", "sm_90", "sm_120"):
        assert compiled(architecture).startswith(b"\x7fELF")
    print("ok")
