"""The Open Inference Protocol's tensors in JSON and in binary.

Binary is https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md: the body
is JSON, of the length that a header says, and behind it the bytes of those tensors that have a `binary_data_size`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson
from pydantic import ValidationError

from service.engine.placement import Placement
from service.engine.runtime import Array
from service.errors import MAX_ERRORS, FieldError, InvalidRequest, MalformedBody, quoted
from service.http.oip_schemas import InferRequest, InputTensor
from service.requests import inference
from service.requests.request import GenerateRequest

HEADER_LENGTH = "Inference-Header-Content-Length"
PIECE = 2**16  # numbers, which take a few milliseconds


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
    return request, inference.as_request(model, _values(request.inputs, inference.declared(model), body[length:]))


def answer(
    request: InferRequest, model: str, id: str, images: Array, parameters: Mapping[str, Any]
) -> tuple[list[bytes], dict[str, str]]:
    """The answer's body, in pieces, and its headers; images (n, C, H, W)."""
    output: dict[str, Any] = {"name": inference.OUTPUT, "shape": images.shape, "datatype": "FP32"}
    response = {
        "model_name": model,
        "model_version": inference.VERSION,
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
        hint = inference.HINTS.get(str(place[-1]))
        message = "it is not supported" if hint is None else f"it is not supported; {hint}"
    return FieldError(field=".".join(map(str, place)) or "body", detail=message)


def _values(tensors: list[InputTensor], declared: inference.Declared, binary: bytes) -> dict[str, inference.Value]:
    """The inputs' values by name. Raises InvalidRequest naming the input and what it may be, or MalformedBody."""
    values: dict[str, inference.Value] = {}
    for tensor in tensors:
        if tensor.name in values:
            raise InvalidRequest.of(tensor.name, "it is there twice", None)
        inference.require_input(tensor.name, tensor.shape, tensor.datatype, declared)
        size = tensor.parameters.binary_data_size
        if (tensor.data is None) == (size is None):
            raise InvalidRequest.of(tensor.name, "it needs either data or a binary_data_size", None)
        if size is None:
            values[tensor.name] = inference.from_elements(tensor.name, tensor.datatype, tensor.data or [])
            continue
        if len(binary) < size:
            raise MalformedBody(f"{tensor.name} has {len(binary)} bytes behind the JSON, not {size}")
        values[tensor.name], binary = inference.from_bytes(tensor.name, tensor.datatype, binary[:size]), binary[size:]
    if binary:
        raise MalformedBody(f"{len(binary)} bytes behind the JSON belong to no input")
    return values
