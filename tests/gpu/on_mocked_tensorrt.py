"""Run by test_tensorrt.py in the GPU's environment: the real module, with mocks of its classes where it needs a GPU."""

import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, call

import tensorrt_rtx_bindings as trt

from bundle import gpu_manifest
from bundle.files import BundleError
from bundle.loading import load
from service.runtimes.cuda.driver import DriverError, Stream
from service.runtimes.cuda.tensorrt import TensorRtNetwork

STREAM = Stream(7)


def mocked() -> tuple[Any, Any, Any]:
    """The engine that `trt.Runtime` gives from now on, its execution context, and its runtime's configuration."""
    context = MagicMock(spec=trt.IExecutionContext)
    config = MagicMock(spec=trt.IRuntimeConfig)
    engine = MagicMock(spec=trt.ICudaEngine, device_memory_size_v2=1000)
    engine.create_runtime_config.return_value = config
    engine.create_execution_context.return_value = context
    runtime = MagicMock(spec=trt.Runtime)
    runtime.deserialize_cuda_engine.return_value = engine
    trt.Runtime = MagicMock(return_value=runtime)
    return engine, context, config


def says(error: type[Exception], text: str, function: Any, *arguments: Any) -> None:
    try:
        function(*arguments)
    except error as raised:
        message = str(raised)
    assert text in message, message


if __name__ == "__main__":
    folder, engines = gpu_manifest.load(load(Path(sys.argv[1])))
    path, graph = folder / "step.engine", engines.graphs["step.engine"]
    names = [tensor.name for tensor in (*graph.inputs, *graph.outputs)]
    addresses = {name: 256 * i for i, name in enumerate(names, start=1)}
    engine, context, config = mocked()
    driver = MagicMock(allocate=MagicMock(return_value=4096))
    network = TensorRtNetwork(driver, path, engines)
    trt.Runtime.return_value.deserialize_cuda_engine.assert_called_once_with(path.read_bytes())
    driver.allocate.assert_called_once_with(1000)
    network.bind(1, addresses, STREAM)
    assert network.capturable
    assert config.dynamic_shapes_kernel_specialization_strategy == trt.DynamicShapesKernelSpecializationStrategy.EAGER
    managed = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    config.set_execution_context_allocation_strategy.assert_called_once_with(managed)
    engine.create_execution_context.assert_called_once_with(config)
    network.enqueue(1, STREAM)
    assert context.method_calls == [
        call.set_device_memory(4096, 1000),
        call.set_optimization_profile_async(0, STREAM),
        *(call.set_input_shape(tensor.name, (1, *tensor.shape[1:])) for tensor in graph.inputs),
        *(call.set_tensor_address(name, addresses[name]) for name in names),
        call.is_stream_capturable(STREAM),
        call.execute_async_v3(STREAM),
    ], context.method_calls
    context.execute_async_v3.return_value = False
    says(DriverError, "TensorRT does not run", network.enqueue, 1, STREAM)
    context.is_stream_capturable.return_value = False
    network.bind(1, addresses, STREAM)
    assert not network.capturable
    context.set_input_shape.return_value = False
    says(DriverError, "TensorRT takes no batch of 1", network.bind, 1, addresses, STREAM)
    trt.Runtime.return_value.deserialize_cuda_engine.return_value = None
    says(BundleError, "step.engine: TensorRT cannot load it", TensorRtNetwork, driver, path, engines)
    print("ok")
