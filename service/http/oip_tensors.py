"""The Open Inference Protocol's tensors: a request's inputs as fields, the images as its output, in JSON and in binary.

Binary is https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md: the body
is JSON, of the length that a header says, and behind it the bytes of those tensors that have a `binary_data_size`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.engine.runtime import Array
from service.errors import MAX_ERRORS, FieldError, InvalidRequest, MalformedBody, quoted
from service.http.problem_responses import invalid
from service.requests.request import GenerateRequest

HEADER_LENGTH = "Inference-Header-Content-Length"
INPUTS = {  # each optional, of shape [1]
    "steps": "INT32",
    "seed": "UINT64",
    "class_label": "INT32",
    "n": "INT32",
    "eta": "FP32",
    "solver": "BYTES",
    "deadline_ms": "INT32",
    "priority": "BYTES",
}
DTYPES = {"INT32": "<i4", "UINT64": "<u8", "FP32": "<f4"}
OUTPUT = "images"
MAX_ITEMS = 64  # of a list; pydantic would go through any number of wrong ones, and has three errors for each


class Wire(BaseModel):
    model_config = ConfigDict(strict=True)


class TensorParameters(Wire):
    binary_data_size: Annotated[int | None, Field(ge=0, description="size of the tensor in the binary part, bytes")] = (
        None
    )


class InputTensor(Wire):
    name: str
    shape: Annotated[list[int], Field(max_length=MAX_ITEMS)]
    datatype: str
    parameters: TensorParameters = TensorParameters()
    data: Annotated[list[int | float | str], Field(max_length=MAX_ITEMS)] | None = None


class OutputParameters(Wire):
    binary_data: bool | None = None


class OutputTensor(Wire):
    name: Literal["images"]
    parameters: OutputParameters = OutputParameters()


class RequestParameters(Wire):
    binary_data_output: bool = False


class InferRequest(Wire):
    """`steps`, `seed`, `class_label`, `n`, `eta`, `solver`, `deadline_ms` and `priority` are inputs, each optional."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "inputs": [
                        {"name": "steps", "shape": [1], "datatype": "INT32", "data": [20]},
                        {"name": "seed", "shape": [1], "datatype": "UINT64", "data": [7]},
                        {"name": "class_label", "shape": [1], "datatype": "INT32", "data": [3]},
                    ]
                }
            ]
        }
    )

    id: Annotated[str, Field(max_length=256)] = ""
    parameters: RequestParameters = RequestParameters()
    inputs: Annotated[list[InputTensor], Field(max_length=MAX_ITEMS)] = []
    outputs: Annotated[list[OutputTensor], Field(max_length=MAX_ITEMS)] = []

    @property
    def wants_binary(self) -> bool:
        for output in self.outputs:
            if output.parameters.binary_data is not None:
                return output.parameters.binary_data
        return self.parameters.binary_data_output


def parse(model: str, body: bytes, header_length: str | None) -> tuple[InferRequest, GenerateRequest]:
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
        places = [(".".join(map(str, item["loc"])) or "body", item["msg"]) for item in errors]
        raise InvalidRequest([FieldError(field=field, detail=detail) for field, detail in places]) from error
    try:
        return request, GenerateRequest(method=model, **_fields(request.inputs, body[length:]))
    except ValidationError as error:
        raise invalid(error.errors(), GenerateRequest) from error


def answer(
    request: InferRequest, model: str, version: str, id: str, images: Array, parameters: Mapping[str, Any]
) -> tuple[bytes, dict[str, str]]:
    """The answer's body and headers; images (n, C, H, W)."""
    output: dict[str, Any] = {"name": OUTPUT, "shape": images.shape, "datatype": "FP32"}
    response = {
        "model_name": model,
        "model_version": version,
        "id": request.id or id,
        "parameters": parameters,
        "outputs": [output],
    }
    if not request.wants_binary:
        output["data"] = images.ravel()
        return orjson.dumps(response, option=orjson.OPT_SERIALIZE_NUMPY), {"Content-Type": "application/json"}
    output["parameters"] = {"binary_data_size": images.nbytes}
    header = orjson.dumps(response)
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(header))}
    return header + images.astype("<f4").tobytes(), headers


def _fields(inputs: list[InputTensor], binary: bytes) -> dict[str, Any]:
    """The inputs' values by name. Raises InvalidRequest naming the input and what it may be."""
    fields: dict[str, Any] = {}
    for tensor in inputs:
        _check(tensor, fields)
        size = tensor.parameters.binary_data_size
        if size is None:
            fields[tensor.name] = _from_json(tensor)
        else:
            fields[tensor.name], binary = _from_binary(tensor, binary[:size], size), binary[size:]
    if binary:
        raise MalformedBody(f"{len(binary)} bytes behind the JSON belong to no input")
    return fields


def _check(tensor: InputTensor, before: Mapping[str, Any]) -> None:
    if tensor.name not in INPUTS:
        raise InvalidRequest.of(tensor.name, "there is no such input", list(INPUTS))
    if tensor.name in before:
        raise InvalidRequest.of(tensor.name, "it is there twice", None)
    if tensor.shape != [1]:
        raise InvalidRequest.of(tensor.name, f"its shape is {tensor.shape}", [1])
    if tensor.datatype != INPUTS[tensor.name]:
        raise InvalidRequest.of(tensor.name, f"its datatype is {tensor.datatype!r}", INPUTS[tensor.name])
    if (tensor.data is None) == (tensor.parameters.binary_data_size is None):
        raise InvalidRequest.of(tensor.name, "it needs either data or a binary_data_size", None)


def _from_json(tensor: InputTensor) -> Any:
    if tensor.data is None or len(tensor.data) != 1:
        raise InvalidRequest.of(tensor.name, f"it has {len(tensor.data or [])} elements", "one element")
    (value,) = tensor.data
    if tensor.datatype != "FP32" or not isinstance(value, float):  # an integer has any length, and means itself
        return value
    with np.errstate(over="ignore"):  # infinity is refused with the other numbers out of range
        return _shortest(np.float32(value))


def _from_binary(tensor: InputTensor, content: bytes, size: int) -> Any:
    if len(content) != size:
        raise MalformedBody(f"{tensor.name} has {len(content)} bytes behind the JSON, not {size}")
    if tensor.datatype == "BYTES":  # each element has its length before it
        if size < 4 or int.from_bytes(content[:4], "little") != size - 4:
            raise InvalidRequest.of(tensor.name, "its bytes are not one element", "a length of 4 bytes, then the bytes")
        return content[4:].decode(errors="replace")
    dtype = np.dtype(DTYPES[tensor.datatype])
    if size != dtype.itemsize:
        raise InvalidRequest.of(tensor.name, f"it has {size} bytes", f"one {tensor.datatype}")
    (value,) = np.frombuffer(content, dtype)
    return _shortest(value) if tensor.datatype == "FP32" else int(value)


def _shortest(value: np.float32) -> float:
    """0.37 for the float32 nearest to it, so that it means the same as in a request that says 0.37."""
    return float(str(value))
