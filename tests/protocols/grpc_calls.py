"""Calls of the Open Inference Protocol over gRPC, as tritonclient writes them or as its stub sends any message."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.rpc import error_details_pb2, status_pb2
from tritonclient.grpc import InferInput, service_pb2, service_pb2_grpc

from loadtests.server_process import free_port
from tests.conftest import ToyRuntime
from tests.deploy.conftest import in_this_process

DTYPES = {"INT32": np.int32, "UINT64": np.uint64, "FP32": np.float32, "BYTES": np.object_}
KINDS = {
    "steps": "INT32",
    "seed": "UINT64",
    "class_label": "INT32",
    "n": "INT32",
    "index": "INT32",
    "deadline_ms": "INT32",
    "eta": "FP32",
    "solver": "BYTES",
    "priority": "BYTES",
}
CONTENTS = {"INT32": "int_contents", "UINT64": "uint64_contents", "FP32": "fp32_contents", "BYTES": "bytes_contents"}


@contextmanager
def served(bundles: Path, runtime: ToyRuntime | None = None, **settings: Any) -> Iterator[tuple[str, str, Any]]:
    """The URL of a server of toys, its address for gRPC, and its application."""
    with in_this_process(bundles, runtime, grpc_port=(port := free_port()), **settings) as (url, app):
        yield url, f"127.0.0.1:{port}", app


@contextmanager
def stub(address: str, *options: tuple[str, Any]) -> Iterator[Any]:
    with grpc.insecure_channel(address, options=options) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def tensors(**values: Any) -> list[InferInput]:
    made = []
    for name, value in values.items():
        tensor = InferInput(name, [1], KINDS[name])
        tensor.set_data_from_numpy(np.array([value], dtype=DTYPES[KINDS[name]]))
        made.append(tensor)
    return made


def request(**values: Any) -> Any:
    """A message whose tensors have contents."""
    message = service_pb2.ModelInferRequest(model_name="toy")
    for name, value in values.items():
        message.inputs.append(tensor(name, value))
    return message


def tensor(name: str, *values: Any, datatype: str | None = None, shape: tuple[int, ...] = (1,)) -> Any:
    datatype = datatype or KINDS.get(name, "INT32")
    made = service_pb2.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape)
    field = getattr(made.contents, CONTENTS.get(datatype, "int_contents"))
    field.extend(value.encode() if isinstance(value, str) else value for value in values)
    return made


def failure(call: Any, *arguments: Any, **options: Any) -> Any:
    """The error of a call that must fail."""
    try:
        call(*arguments, **options)
    except grpc.RpcError as error:
        return error
    raise AssertionError("it did not fail")


def status_of(call: Any, *arguments: Any, **options: Any) -> Any:
    """The status that a call ends with."""
    try:
        call(*arguments, **options)
    except grpc.RpcError as error:
        return error.code()  # type: ignore[attr-defined]
    return grpc.StatusCode.OK


def details(error: Any) -> tuple[dict[str, str], float | None]:
    """The fields that were refused, with why, and the delay until another try, in seconds."""
    trailing = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
    assert (status.code, status.message) == (error.code().value[0], error.details())
    refused, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    delay_s = None
    for detail in status.details:
        detail.Unpack(refused)
        if detail.Unpack(retry):
            delay_s = retry.retry_delay.ToSeconds()
    assert trailing.get("retry-after") == (None if delay_s is None else str(delay_s))
    return {violation.field: violation.description for violation in refused.field_violations}, delay_s
