"""The Open Inference Protocol's tensors: a request's inputs as fields, the images as its output, in JSON and in binary.

Binary is https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md: the body
is JSON, of the length that a header says, and behind it the bytes of those tensors that have a `binary_data_size`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import orjson
from pydantic import ValidationError

from service.engine.placement import Placement
from service.engine.runtime import Array
from service.errors import MAX_ERRORS, FieldError, InvalidRequest, MalformedBody, quoted
from service.http.oip_schemas import InferRequest, InputTensor
from service.http.problem_responses import invalid
from service.requests.request import GenerateRequest

HEADER_LENGTH = "Inference-Header-Content-Length"
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
PIECE = 2**16  # numbers, which take a few milliseconds
HINTS = {"timeout": "the input deadline_ms is", "priority": "the input priority is"}


def inputs(model: Placement) -> dict[str, tuple[str, ...]]:
    """The datatypes of a model's inputs, by name; metadata has the first. Each setting of its solvers is an input."""
    settings = [name for solver in model.bundle.solvers.values() for name in solver.settings]
    own = {name: types for name, types in INPUTS.items() if name != "guidance" or model.bundle.manifest.guidance}
    return {**dict.fromkeys(settings, ("FP32",)), **own}


def parse(model: Placement, body: bytes, header_length: str | None) -> tuple[InferRequest, GenerateRequest]:
    """What a body asks for, as it is and as a request. Raises InvalidRequest or MalformedBody."""
    length = len(body)
    if header_length is not None:  # int() refuses some thousands of digits
        length = int(header_length) if header_length.isdecimal() and len(header_length) < 10 else -1
    if not 0 <= length <= len(body):
        raise MalformedBody(f"{HEADER_LENGTH} is {quoted(str(header_length))}; the body has {len(body)} bytes")
    try:
        request = InferRequest.model_validate_json(body[:length])
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)[:MAX_ERRORS]
        raise InvalidRequest([_field_error(item["loc"], item["type"], item["msg"]) for item in errors]) from error
    declared = {**inputs(model), **INPUTS}  # guidance of a model without is refused as in the other protocols
    values = _values(request.inputs, declared, body[length:])
    settings = {name: values.pop(name) for name in declared.keys() - INPUTS.keys() if name in values}
    try:
        return request, GenerateRequest(method=model.name, settings=settings, **values)
    except ValidationError as error:
        raise invalid(error.errors(), GenerateRequest) from error


def answer(
    request: InferRequest, model: str, version: str, id: str, images: Array, parameters: Mapping[str, Any]
) -> tuple[list[bytes], dict[str, str]]:
    """The answer's body, in pieces, and its headers; images (n, C, H, W)."""
    output: dict[str, Any] = {"name": OUTPUT, "shape": images.shape, "datatype": "FP32"}
    response = {
        "model_name": model,
        "model_version": version,
        "id": request.id or id,
        "parameters": parameters,
        "outputs": [output],
    }
    if not request.wants_binary:
        output["data"] = []
        begin, end = orjson.dumps(response).rsplit(b"[]", 1)
        return [begin, *_numbers(images.ravel()), end], {"Content-Type": "application/json"}
    output["parameters"] = {"binary_data_size": images.nbytes}
    header = orjson.dumps(response)
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(header))}
    return [header, *(image.astype("<f4").tobytes() for image in images)], headers


def _numbers(numbers: Array) -> Iterator[bytes]:
    """A JSON list. Between two pieces of it the other threads go on, the event loop's too."""
    for start in range(0, len(numbers), PIECE):
        piece = orjson.dumps(numbers[start : start + PIECE], option=orjson.OPT_SERIALIZE_NUMPY)
        yield (b"," if start else b"[") + piece[1:-1]
    yield b"]"


def _field_error(place: tuple[int | str, ...], type: str, message: str) -> FieldError:
    if type == "extra_forbidden":
        hint = HINTS.get(str(place[-1]))
        message = "it is not supported" if hint is None else f"it is not supported; {hint}"
    return FieldError(field=".".join(map(str, place)) or "body", detail=message)


def _values(tensors: list[InputTensor], declared: Mapping[str, tuple[str, ...]], binary: bytes) -> dict[str, Any]:
    """The inputs' values by name. Raises InvalidRequest naming the input and what it may be, or MalformedBody."""
    values: dict[str, Any] = {}
    for tensor in tensors:
        if tensor.name in values:
            raise InvalidRequest.of(tensor.name, "it is there twice", None)
        _check(tensor, declared)
        size = tensor.parameters.binary_data_size
        if size is None:
            values[tensor.name] = _from_json(tensor)
        else:
            values[tensor.name], binary = _from_binary(tensor, binary[:size], size), binary[size:]
    if binary:
        raise MalformedBody(f"{len(binary)} bytes behind the JSON belong to no input")
    return values


def _check(tensor: InputTensor, declared: Mapping[str, tuple[str, ...]]) -> None:
    if tensor.name not in declared:
        raise InvalidRequest.of(tensor.name, "there is no such input", list(declared))
    if tensor.shape != [1]:
        raise InvalidRequest.of(tensor.name, f"its shape is {tensor.shape}", [1])
    if tensor.datatype not in declared[tensor.name]:
        raise InvalidRequest.of(tensor.name, f"its datatype is {tensor.datatype!r}", list(declared[tensor.name]))
    if (tensor.data is None) == (tensor.parameters.binary_data_size is None):
        raise InvalidRequest.of(tensor.name, "it needs either data or a binary_data_size", None)


def _from_json(tensor: InputTensor) -> int | float | str:
    if tensor.data is None or len(tensor.data) != 1:
        raise InvalidRequest.of(tensor.name, f"it has {len(tensor.data or [])} elements", "one element")
    (value,) = tensor.data
    if tensor.datatype == "BYTES":
        if isinstance(value, str):
            return value
        raise InvalidRequest.of(tensor.name, "its element is not a string", {"type": "string"})
    if tensor.datatype == "FP32":
        return _fp32(tensor.name, value)
    limits = np.iinfo(DTYPES[tensor.datatype])
    if isinstance(value, int) and limits.min <= value <= limits.max:
        return value
    allowed = {"type": "integer", "minimum": int(limits.min), "maximum": int(limits.max)}
    raise InvalidRequest.of(tensor.name, f"its element is not of {tensor.datatype}", allowed)


def _from_binary(tensor: InputTensor, content: bytes, size: int) -> int | float | str:
    if len(content) != size:
        raise MalformedBody(f"{tensor.name} has {len(content)} bytes behind the JSON, not {size}")
    if tensor.datatype == "BYTES":  # each element has its length before it
        if size < 4 or int.from_bytes(content[:4], "little") != size - 4:
            raise InvalidRequest.of(tensor.name, "its bytes are not one element", "a length of 4 bytes, then the bytes")
        try:
            return content[4:].decode()
        except UnicodeDecodeError:
            raise InvalidRequest.of(tensor.name, "its bytes are not UTF-8", None) from None
    dtype = np.dtype(DTYPES[tensor.datatype])
    if size != dtype.itemsize:
        raise InvalidRequest.of(tensor.name, f"it has {size} bytes", f"one {tensor.datatype}")
    (value,) = np.frombuffer(content, dtype)
    return _fp32(tensor.name, value) if tensor.datatype == "FP32" else int(value)


def _fp32(name: str, value: Any) -> float:
    """0.37 for the float32 nearest to it, so that it means the same as in a request that says 0.37."""
    if isinstance(value, str) or not abs(value) <= FP32_MAX:
        raise InvalidRequest.of(name, "its element is not a finite FP32", {"type": "number"})
    return float(str(np.float32(value)))
