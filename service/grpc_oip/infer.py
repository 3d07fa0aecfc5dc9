"""An inference, whichever call it came by."""

from typing import Any

import numpy as np

from service.engine.placement import Placement
from service.grpc_oip import grpc_tensors
from service.requests import inference
from service.requests.generation import Generation, Origin
from service.requests.state import ServiceState


def find(state: ServiceState, name: str, version: str) -> Placement:
    """Raises Unavailable, UnknownMethod or UnknownVersion."""
    model = state.models.find(name)
    inference.require_version(name, version)
    return model


def begin(
    state: ServiceState, origin: Origin, request: Any, remaining_s: float | None, parameters: tuple[str, ...] = ()
) -> Generation:
    """Raises what find and Generation.begin do, and InvalidRequest."""
    model = find(state, request.model_name, request.model_version)
    generation = inference.begin(state, origin, grpc_tensors.parse(model, request, remaining_s, parameters))
    grpc_tensors.require_small(generation.model, generation.sampling.n)
    return generation


def images(generation: Generation, id: str, files: list[bytes], more: dict[str, inference.Value]) -> Any:
    """The answer's message, with `more` parameters."""
    model = generation.model
    array = np.frombuffer(files[0], dtype="<f4").reshape(generation.sampling.n, *model.bundle.manifest.shape)
    parameters = {**inference.parameters(generation), **more}
    return grpc_tensors.answer(model.name, id or generation.origin.id, parameters, inference.OUTPUT, array)
