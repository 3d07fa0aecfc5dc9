"""What the model itself sees in its images: activations of its own network, at each of its resolutions."""

import math

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import shape_inference

from bundle.graph import Graph
from bundle.loading import Bundle
from bundle.manifest import STEP
from fit.sampling import Sampler
from models.step import Step
from service.engine.runtime import Array
from service.runtimes.onnx_session import open_session

LEVEL = 0.15  # σ/α of the time at which the network looks at a clean image


class Features:
    """The network's residual stream for a clean state: at each resolution, averaged to the positions of the lowest."""

    def __init__(self, bundle: Bundle, sampler: Sampler, row: Step, alpha: float) -> None:
        """`row` is a step of a plan at the time of LEVEL, where a clean state has the factor `alpha`."""
        graph = bundle.read(STEP)
        model = onnx.load_from_string(graph.content)
        tensors = sums(model)
        del model.graph.output[:]
        for name in tensors:
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        self._session = open_session(Graph(model.SerializeToString(), graph.weights_file, graph.weights), 1)
        self._sampler, self._row, self._alpha, self._tensors = sampler, row, np.float32(alpha), tensors

    def __call__(self, states: Array) -> list[NDArray[np.float32]]:
        """For each resolution (n, numbers), of states (n, C, H, W) of the images 0, 1, …"""
        labels = self._sampler.labels(len(states))
        inputs = {each.name: each.shape for each in self._session.get_inputs()}

        def batch(rows: slice) -> list[Array]:
            count = len(labels[rows])
            nothing = np.zeros((count, *states.shape[1:]), dtype=np.float32)
            arrays = {
                "x": self._alpha * states[rows],
                "t": np.full(count, self._row.t, dtype=np.float32),
                "y": labels[rows],
                "noise": nothing,
                "x0_prev": nothing,
                "pair": np.arange(count),
                "weights": np.tile(np.array([1, 0], dtype=np.float32), (count, 1)),
                "coefficients": np.tile(np.array(self._row[1:], dtype=np.float32), (count, 1)),
            }
            arrays = {name: array for name, array in arrays.items() if name in inputs}
            arrays["coefficients"] = arrays["coefficients"][:, : inputs["coefficients"][1]]
            activations = self._session.run(self._tensors, arrays)
            fewest = min(each.shape[-1] for each in activations)
            return [pooled(each, fewest) for each in activations]

        return [np.concatenate(each) for each in zip(*self._sampler.over_batches(batch, len(states)), strict=True)]


def pooled(activations: Array, side: int) -> Array:
    """(n, C, H, W) → (n, C·side²), averages of blocks; what has no height and width as it is."""
    if activations.ndim == 4:
        n, channels, height, width = activations.shape
        blocks = activations.reshape(n, channels, side, height // side, side, width // side)
        activations = blocks.mean(axis=(3, 5))
    return activations.reshape(len(activations), -1)


def sums(model: onnx.ModelProto) -> list[str]:
    """At each number of positions, the middle one of the sums (rows, channels, height, width) or (rows, tokens, width).

    A residual stream is sums.
    """
    graph = shape_inference.infer_shapes(model).graph
    shapes = {each.name: [d.dim_value for d in each.type.tensor_type.shape.dim] for each in graph.value_info}
    by_positions: dict[int, list[str]] = {}
    for name in (node.output[0] for node in graph.node if node.op_type == "Add"):
        if len(shape := shapes.get(name, [])) > 2:
            positions = math.prod(shape[2:]) if len(shape) == 4 else shape[1]
            by_positions.setdefault(positions, []).append(name)
    return [names[len(names) // 2] for _, names in sorted(by_positions.items())]
