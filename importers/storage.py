"""How a bundle keeps its weights: float32, as networks compute, or float16, which takes half the file."""

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from importers.problems import ImportProblem

LEAST = 1024  # numbers; what is smaller saves nothing


class Storage(StrEnum):
    """Of the large tensors of a graph."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"


class Tolerance(NamedTuple):
    """Differences that are allowed, in standard deviations of the expected array."""

    rms: float
    largest: float

    @classmethod
    def of(cls, rms: float) -> "Tolerance":
        return cls(rms, 20 * rms)


# Rounding to float16 moves a weight by up to 2⁻¹¹ of itself. A first step divides by a small α, so a single number may
# then jump from one end of the clip to the other.
ROUNDED = Tolerance(2e-2, 10.0)
FROM_PYTORCH: Mapping[Storage, Tolerance] = {Storage.FLOAT32: Tolerance.of(1e-4), Storage.FLOAT16: ROUNDED}
FROM_RECORDED: Mapping[Storage, Tolerance] = {Storage.FLOAT32: Tolerance.of(1e-5), Storage.FLOAT16: ROUNDED}


def halve(model: onnx.ModelProto) -> None:
    """Rounds large float32 tensors to float16, and puts a cast to float32 behind each: the graph computes as before.

    ONNX Runtime computes the casts once, when it opens the graph. Raises ImportProblem for a weight that is too large.
    """
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or math.prod(tensor.dims) < LEAST:
            continue
        name, weights = tensor.name, numpy_helper.to_array(tensor)
        if np.abs(weights).max() > np.finfo(np.float16).max:
            raise ImportProblem(f"float16 cannot hold {np.abs(weights).max():.3g}, a weight of {name}")
        tensor.CopyFrom(numpy_helper.from_array(weights.astype(np.float16), f"{name} in float16"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], name=f"{name} in float32", to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
