"""Runs a bundle's graphs. `Runtime` is the seam: a test passes a fake, a GPU brings its own."""

from typing import Protocol

import onnxruntime as ort

from bundle.manifest import Bundle
from service.engine.jobs import Array, Inputs, States


class Runtime(Protocol):
    """One model, ready to run; called by all the engine's workers, at once."""

    def step(self, inputs: Inputs) -> tuple[States, States]:
        """x_new and x0, each (n, C, H, W) float32, for inputs of n rows. Rows do not depend on each other.

        A runtime may keep the states to itself and give what stands for them; it then says itself, at the latest when
        they are decoded, whether they are finite (FloatingPointError).
        """
        ...

    def decode(self, x: States) -> Array:
        """The images (n, C, H, W) of states x: x itself for a model whose steps end at the image. Rows as above."""
        ...


class OrtRuntime:
    """ONNX Runtime on the CPU."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        providers = ["CPUExecutionProvider"]
        self._step = ort.InferenceSession(bundle.step_file, options, providers)
        decode = bundle.decode_file
        self._decode = None if decode is None else ort.InferenceSession(decode, options, providers)

    def step(self, inputs: Inputs) -> tuple[Array, Array]:
        x_new, x0 = self._step.run(["x_new", "x0"], inputs)
        return x_new, x0

    def decode(self, x: Array) -> Array:
        if self._decode is None:
            return x
        images: Array = self._decode.run(["images"], {"x": x})[0]
        return images
