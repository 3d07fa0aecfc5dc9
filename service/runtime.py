"""Runs a bundle's step graph. `Runtime` is the seam: a test passes a fake, a GPU brings its own."""

from typing import Protocol

import onnxruntime as ort

from service.bundle import Bundle
from service.core import Array, Inputs


class Runtime(Protocol):
    """One model, ready to run; called from the engine's thread alone."""

    def step(self, inputs: Inputs) -> tuple[Array, Array]:
        """x_new and x0, each (n, C, H, W) float32, for inputs of n rows. Rows do not depend on each other."""
        ...


class OrtRuntime:
    """ONNX Runtime on the CPU."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = ort.InferenceSession(bundle.step_file, options, providers=["CPUExecutionProvider"])

    def step(self, inputs: Inputs) -> tuple[Array, Array]:
        x_new, x0 = self._session.run(["x_new", "x0"], inputs)
        return x_new, x0
