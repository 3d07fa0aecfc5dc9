"""A graph run by ONNX Runtime's CUDA provider as a `Network`: inputs and outputs are bound to the runtime's memory."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from bundle.files import BundleError
from bundle.gpu_manifest import Engines
from service.runtimes.cuda.driver import Address, DriverError, Stream

PROVIDER = "CUDAExecutionProvider"


class OrtCudaNetwork:
    """A session on the runtime's stream, which captures a CUDA graph of its own for each batch size."""

    capturable = False

    def __init__(self, path: Path, engines: Engines, *, graphs: bool) -> None:
        """Raises BundleError if ONNX Runtime is not built for CUDA."""
        if PROVIDER not in ort.get_available_providers():
            raise BundleError(f"{path}: onnxruntime {ort.__version__} is not built for CUDA: install onnxruntime-gpu")
        self._buckets = engines.buckets
        self._path, self._graph = path, engines.graphs[path.name]
        self._options = provider_options(graphs=graphs, tf32=engines.precision == "tf32")
        self._session: Any = None  # opened once the stream is known
        self._bindings: dict[int, tuple[Any, Any]] = {}

    def bind(self, bucket: int, addresses: dict[str, Address], stream: Stream) -> None:
        self._session = self._session or open_session(self._path, {**self._options, "user_compute_stream": str(stream)})
        binding = self._session.io_binding()
        for tensors, bind in ((self._graph.inputs, binding.bind_input), (self._graph.outputs, binding.bind_output)):
            for tensor in tensors:
                shape = [bucket, *tensor.shape[1:]]
                bind(tensor.name, "cuda", 0, np.dtype(tensor.dtype).type, shape, addresses[tensor.name])
        options = ort.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(self._buckets.index(bucket)))
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self._bindings[bucket] = binding, options

    def enqueue(self, bucket: int, stream: Stream) -> None:
        self._session.run_with_iobinding(*self._bindings[bucket])


def provider_options(*, graphs: bool, tf32: bool) -> dict[str, str]:
    """Options of the CUDA provider. Convolution algorithms are chosen by a fixed heuristic, not by timing."""
    return {
        "enable_cuda_graph": str(int(graphs)),
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": str(int(tf32)),
    }


def open_session(path: Path, options: dict[str, str]) -> ort.InferenceSession:
    """A session on the GPU. Raises DriverError where ONNX Runtime would silently compute on the CPU instead."""
    session_options = ort.SessionOptions()
    session_options.use_deterministic_compute = True
    session_options.log_severity_level = 3
    session = ort.InferenceSession(path, session_options, [(PROVIDER, options)])
    if session.get_providers()[0] != PROVIDER:
        raise DriverError(f"{path}: ONNX Runtime's CUDA provider does not load (CUDA 13 and cuDNN 9 are needed)")
    return session
