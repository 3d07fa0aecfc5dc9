"""The runtime of a CPU: ONNX Runtime."""

from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from bundle.loading import Bundle
from service.engine.runtime import Array, HostStates, States, StepInputs, unguided


class OrtRuntime:
    """A bundle's graphs in ONNX Runtime, `threads` threads a step."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        providers = ["CPUExecutionProvider"]
        self._step = ort.InferenceSession(bundle.step_file, options, providers)
        self._inputs = {tensor.name: tensor.shape for tensor in self._step.get_inputs()}
        decode = bundle.decode_file
        self._decode = None if decode is None else ort.InferenceSession(decode, options, providers)

    def step(self, inputs: StepInputs) -> tuple[HostStates, HostStates]:
        x_new, x0 = self._step.run(["x_new", "x0"], self.graph_inputs(inputs))
        return HostStates(x_new), HostStates(x0)

    def graph_inputs(self, inputs: StepInputs) -> dict[str, NDArray[Any]]:
        """The inputs that the step graph has, by name: an older graph has fewer, and fewer columns of coefficients."""
        arrays = {**unguided(len(inputs.t)), **inputs.arrays()} if "pair" in self._inputs else inputs.arrays()
        arrays = {name: array for name, array in arrays.items() if name in self._inputs}
        arrays["coefficients"] = arrays["coefficients"][:, : self._inputs["coefficients"][1]]
        return arrays

    def decode(self, states: States) -> Array:
        assert isinstance(states, HostStates)
        if self._decode is None:
            return states.array
        images: Array = self._decode.run(["images"], {"x": states.array})[0]
        return images
