"""The Open Inference Protocol's tensors in protobuf: a request's inputs in either form, and the images."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from service.engine.placement import Placement
from service.errors import MAX_ERRORS, FieldError, InvalidRequest
from service.grpc_oip.messages import InferResponse
from service.requests import inference
from service.requests.request import GenerateRequest

CONTENTS = {"INT32": "int_contents", "UINT64": "uint64_contents", "FP32": "fp32_contents", "BYTES": "bytes_contents"}
PREVIEW_EVERY = "preview_every"
STREAM_PARAMETERS = (PREVIEW_EVERY, "triton_enable_empty_final_response")  # the last answer is marked in any case
MAX_DEADLINE_MS = 86_400_000  # what is later is none
MAX_ANSWER_BYTES = 2**22  # of images: what clients take by default, and written on the event loop in 15 ms
PREVIEW = "preview"
FINAL = "triton_final_response"  # as Triton marks the last answer of a request


def parse(model: Placement, request: Any, remaining_s: float | None, allowed: Iterable[str] = ()) -> GenerateRequest:
    """The message as a request, due within the call's own time. Raises InvalidRequest.

    `allowed` are the parameters of the request that mean something here.
    """
    _require_supported(request, tuple(allowed))
    values = _values(request, inference.declared(model))
    if remaining_s is not None and remaining_s * 1000 < MAX_DEADLINE_MS:
        within_ms = max(1, int(remaining_s * 1000))
        own = values.get("deadline_ms")
        values["deadline_ms"] = min(own, within_ms) if isinstance(own, int) and own > 0 else own or within_ms
    more = {PREVIEW_EVERY: _preview_every(request)} if PREVIEW_EVERY in request.parameters else {}
    return inference.as_request(model, values, **more)


def require_small(model: Placement, n: int) -> None:
    """Raises InvalidRequest for more images than a message may have."""
    channels, height, width = model.bundle.manifest.shape
    most = MAX_ANSWER_BYTES // (4 * channels * height * width)
    if n > most:
        detail = f"the images of {model.name} are longer than {MAX_ANSWER_BYTES} bytes, the most of a gRPC answer"
        raise InvalidRequest.of("n", f"{detail}; over HTTP there may be more", {"min": 1, "max": most})


def answer(model: str, id: str, parameters: Mapping[str, inference.Value], name: str, array: Any) -> Any:
    """The message of an array (n, C, H, W)."""
    response = InferResponse(model_name=model, model_version=inference.VERSION, id=id)
    for key, value in parameters.items():
        set_parameter(response.parameters[key], value)
    response.outputs.add(name=name, datatype="FP32", shape=array.shape)
    response.raw_output_contents.append(array.astype("<f4", copy=False).tobytes())
    return response


def set_parameter(parameter: Any, value: inference.Value) -> None:
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, int):
        parameter.uint64_param = value
    else:
        parameter.string_param = value


def _require_supported(request: Any, allowed: tuple[str, ...]) -> None:
    """Raises InvalidRequest for what the protocol has and this server does not."""
    for name, count in (("inputs", len(request.inputs)), ("outputs", len(request.outputs))):
        if count > inference.MAX_TENSORS:
            raise InvalidRequest.of(name, f"there are {count}", {"maxItems": inference.MAX_TENSORS})
    if len(request.id) > inference.MAX_ID:
        raise InvalidRequest.of("id", f"it has {len(request.id)} characters", {"maxLength": inference.MAX_ID})
    if errors := list(islice(_unsupported_parts(request, allowed), MAX_ERRORS)):  # of thousands
        raise InvalidRequest(errors)


def _unsupported_parts(request: Any, allowed: tuple[str, ...]) -> Iterator[FieldError]:
    yield from (_unsupported("parameters", name) for name in request.parameters if name not in allowed)
    for tensor in (*request.inputs, *request.outputs):
        yield from (_unsupported(f"{tensor.name}.parameters", name) for name in tensor.parameters)
    for output in request.outputs:
        if output.name != inference.OUTPUT:
            detail = "there is no such output"
            yield FieldError(field=f"outputs.{output.name}", detail=detail, allowed=[inference.OUTPUT])


def _unsupported(place: str, name: str) -> FieldError:
    hint = inference.HINTS.get(name)
    message = "it is not supported" if hint is None else f"it is not supported; {hint}"
    return FieldError(field=f"{place}.{name}", detail=message)


def _preview_every(request: Any) -> int:
    parameter = request.parameters[PREVIEW_EVERY]
    kind = parameter.WhichOneof("parameter_choice")
    if kind not in ("int64_param", "uint64_param"):
        raise InvalidRequest.of(PREVIEW_EVERY, "it is not an integer", {"type": "integer", "minimum": 1})
    return int(getattr(parameter, kind))


def _values(request: Any, declared: inference.Declared) -> dict[str, inference.Value]:
    """The inputs' values by name. Raises InvalidRequest naming the input and what it may be."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        allowed = f"one for each of the {len(request.inputs)} inputs, or none"
        raise InvalidRequest.of("raw_input_contents", f"there are {len(raw)}", allowed)
    values: dict[str, inference.Value] = {}
    for place, tensor in enumerate(request.inputs):
        if tensor.name in values:
            raise InvalidRequest.of(tensor.name, "it is there twice", None)
        inference.require_input(tensor.name, tensor.shape, tensor.datatype, declared)
        filled = [field.name for field, _ in tensor.contents.ListFields()]
        if raw and filled:
            raise InvalidRequest.of(tensor.name, "it has contents beside raw_input_contents", None)
        if raw:
            values[tensor.name] = inference.from_bytes(tensor.name, tensor.datatype, raw[place])
        else:
            values[tensor.name] = _from_contents(tensor, filled)
    return values


def _from_contents(tensor: Any, filled: list[str]) -> inference.Value:
    field = CONTENTS[tensor.datatype]
    if filled and filled != [field]:
        raise InvalidRequest.of(tensor.name, f"its contents are in {', '.join(filled)}", [field])
    elements = getattr(tensor.contents, field)
    if tensor.datatype == "BYTES" and len(elements) == 1:
        return inference.text(tensor.name, elements[0])
    return inference.from_elements(tensor.name, tensor.datatype, elements)
