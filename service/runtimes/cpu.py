"""The runtime of a CPU: ONNX Runtime."""

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from bundle.loading import Bundle
from bundle.manifest import DECODE, ENCODE, STEP
from service.engine.runtime import Array, HostStates, States, StepInputs, unguided
from service.runtimes.onnx_session import open_session


class OrtRuntime:
    """A bundle's graphs in ONNX Runtime, `threads` threads a step."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        """Raises BundleError for a file that changed since it was verified, and what ONNX Runtime raises."""
        self._step = open_session(bundle.read(STEP), threads)
        self._inputs = {tensor.name: tensor.shape for tensor in self._step.get_inputs()}
        self.encode = open_encoder(bundle, threads)
        self._decode = open_session(bundle.read(DECODE), threads) if DECODE in bundle.graphs else None

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

    def fetch(self, states: States) -> Array:
        assert isinstance(states, HostStates)
        return states.array


def open_encoder(bundle: Bundle, threads: int) -> Callable[[Array], Array]:
    """From an image to its state, one at a time: so its bits do not depend on who else begins at a picture."""
    if not bundle.encodes:
        return lambda image: image
    session = open_session(bundle.read(ENCODE), threads)

    def encode(image: Array) -> Array:
        (states,) = session.run(["x"], {"images": image[None]})
        state: Array = states[0]
        return state

    return encode
