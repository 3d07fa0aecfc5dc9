"""The Open Inference Protocol, version 2, whatever carries it: the tensors of a request, and what is said of models.

A request's inputs are fields, each optional and of one element; its output is the images.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import ValidationError

from service.engine.placement import Placement
from service.errors import InvalidRequest, UnknownVersion
from service.requests.encoding import RAW
from service.requests.generation import Generation, Origin, Result
from service.requests.models import Readiness
from service.requests.renaming import renaming
from service.requests.request import GenerateRequest
from service.requests.state import ServiceState
from service.requests.validation import invalid

SERVER = "trilemma"
PLATFORM, BACKEND = "onnxruntime_onnx", "onnxruntime"
VERSION = "1"  # of each model: a bundle has one at a time, and its digest says which
INPUTS: dict[str, tuple[str, ...]] = {  # each optional, of shape [1]
    "steps": ("INT32",),
    "seed": ("UINT64",),
    "class_label": ("INT32", "BYTES"),  # a number or a name
    "n": ("INT32",),
    "index": ("INT32",),
    "solver": ("BYTES",),
    "guidance": ("FP32",),
    "deadline_ms": ("INT32",),
    "priority": ("BYTES",),
}
DTYPES = {"INT32": "<i4", "UINT64": "<u8", "FP32": "<f4"}
FP32_MAX = float(np.finfo(np.float32).max)
OUTPUT = "images"
HINTS = {"timeout": "the input deadline_ms is", "priority": "the input priority is"}
MAX_TENSORS = 64  # of a request, and parameters of each kind
MAX_ID = 256  # characters

Declared = Mapping[str, tuple[str, ...]]
Value = int | float | str


class IndexedModel(NamedTuple):
    """An entry of the repository's index."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


def inputs(model: Placement) -> dict[str, tuple[str, ...]]:
    """The datatypes of a model's inputs, by name; metadata has the first. Each setting of its solvers is an input."""
    settings = [name for solver in model.bundle.solvers.values() for name in solver.settings]
    own = {name: types for name, types in INPUTS.items() if name != "guidance" or model.bundle.manifest.guidance}
    return {**dict.fromkeys(settings, ("FP32",)), **own}


def declared(model: Placement) -> Declared:
    """What a request may have: guidance of a model without is refused as in the other protocols."""
    return {**inputs(model), **INPUTS}


def output_shape(model: Placement) -> list[int]:
    return [-1, *model.bundle.manifest.shape]


def require_version(model: str, version: str) -> None:
    """Raises UnknownVersion; without a version it is the only one."""
    if version not in ("", VERSION):
        raise UnknownVersion(model, version, [VERSION])


def is_ready(state: ServiceState, model: Placement) -> bool:
    return model.digest not in state.engine.out_of_service


def index(readiness: Readiness, only_ready: bool) -> Iterator[IndexedModel]:
    """Every model of the bundle folder, also refused ones, unless those alone are wanted that are ready."""
    for name in readiness.methods:
        yield IndexedModel(name, VERSION, "READY", "")
    if only_ready:
        return
    for name in readiness.out_of_service:
        yield IndexedModel(name, VERSION, "UNAVAILABLE", "taken out of service after repeated failures")
    for name, reason in readiness.failed_bundles.items():
        yield IndexedModel(name, VERSION, "UNAVAILABLE", reason)


def as_request(model: Placement, values: dict[str, Value], **more: Any) -> GenerateRequest:
    """The inputs' values, by name, as a request. Raises InvalidRequest."""
    settings = {name: value for name, value in values.items() if name not in INPUTS}
    own = {name: value for name, value in values.items() if name in INPUTS}
    try:
        return GenerateRequest(method=model.name, settings=settings, **own, **more)  # type: ignore[arg-type]
    except ValidationError as error:
        raise invalid(error.errors(), GenerateRequest) from error


def begin(state: ServiceState, origin: Origin, request: GenerateRequest) -> Generation:
    """Raises what Generation.begin does; a setting is an input of its own."""
    with input_names():
        return Generation.begin(state, origin, request, RAW)


async def result(generation: Generation) -> Result:
    """Raises what Generation.result does."""
    with input_names():
        return await generation.result()


def input_names() -> AbstractContextManager[None]:
    return renaming(lambda field: field.removeprefix("settings."))


def parameters(generation: Generation) -> dict[str, Value]:
    """Of an answer."""
    return {"seed": generation.sampling.seed, "digest": generation.model.digest}


def require_input(name: str, shape: Sequence[int], datatype: str, declared: Declared) -> None:
    """Raises InvalidRequest naming the input and what it may be."""
    if name not in declared:
        raise InvalidRequest.of(name, "there is no such input", list(declared))
    if list(shape[:9]) != [1]:
        raise InvalidRequest.of(name, f"its shape is {list(shape[:9])}", [1])
    if datatype not in declared[name]:
        raise InvalidRequest.of(name, f"its datatype is {datatype!r}", list(declared[name]))


def from_elements(name: str, datatype: str, elements: Sequence[Any]) -> Value:
    """The value of an input whose elements are numbers or strings. Raises InvalidRequest."""
    if len(elements) != 1:
        raise InvalidRequest.of(name, f"it has {len(elements)} elements", "one element")
    (value,) = elements
    if datatype == "BYTES":
        if isinstance(value, str):
            return value
        raise InvalidRequest.of(name, "its element is not a string", {"type": "string"})
    if datatype == "FP32":
        return _fp32(name, value)
    limits = np.iinfo(DTYPES[datatype])
    if isinstance(value, int) and limits.min <= value <= limits.max:
        return value
    allowed = {"type": "integer", "minimum": int(limits.min), "maximum": int(limits.max)}
    raise InvalidRequest.of(name, f"its element is not of {datatype}", allowed)


def from_bytes(name: str, datatype: str, content: bytes) -> Value:
    """The value of an input whose one element is written in little-endian bytes. Raises InvalidRequest."""
    size = len(content)
    if datatype == "BYTES":  # each element has its length before it
        if size < 4 or int.from_bytes(content[:4], "little") != size - 4:
            raise InvalidRequest.of(name, "its bytes are not one element", "a length of 4 bytes, then the bytes")
        return text(name, content[4:])
    dtype = np.dtype(DTYPES[datatype])
    if size != dtype.itemsize:
        raise InvalidRequest.of(name, f"it has {size} bytes", f"one {datatype}")
    (value,) = np.frombuffer(content, dtype)
    return _fp32(name, value) if datatype == "FP32" else int(value)


def text(name: str, content: bytes) -> str:
    """Raises InvalidRequest."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise InvalidRequest.of(name, "its bytes are not UTF-8", None) from None


def _fp32(name: str, value: Any) -> float:
    """0.37 for the float32 nearest to it, so that it means the same as in a request that says 0.37."""
    if isinstance(value, str) or not abs(value) <= FP32_MAX:
        raise InvalidRequest.of(name, "its element is not a finite FP32", {"type": "number"})
    return float(str(np.float32(value)))
