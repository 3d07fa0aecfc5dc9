"""From a problem to a gRPC status, by one table, with what is wrong and when to try again in its details.

The details are Google's richer error model (https://grpc.io/docs/guides/error/): an ErrorInfo, a BadRequest with each
field, and a RetryInfo. The delay is also in the trailing metadata, as `retry-after`, in seconds.
"""

from http import HTTPStatus
from typing import Any, NoReturn
from urllib.parse import quote

import grpc
from google.rpc import error_details_pb2, status_pb2

from service.errors import InvalidRequest, Problem
from service.requests.validation import spelt_out

CODES = {
    HTTPStatus.OK: grpc.StatusCode.OK,
    HTTPStatus.BAD_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    HTTPStatus.UNPROCESSABLE_ENTITY: grpc.StatusCode.INVALID_ARGUMENT,
    HTTPStatus.UNAUTHORIZED: grpc.StatusCode.UNAUTHENTICATED,
    HTTPStatus.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    HTTPStatus.REQUEST_TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
    HTTPStatus.CONFLICT: grpc.StatusCode.CANCELLED,
    HTTPStatus.TOO_MANY_REQUESTS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    HTTPStatus.SERVICE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    HTTPStatus.INTERNAL_SERVER_ERROR: grpc.StatusCode.INTERNAL,
}
DOMAIN = "trilemma"
MAX_TEXT, MAX_FIELDS = 1500, 1500  # bytes: clients take 8 KB of metadata by default, in which this is written longer

Trailing = tuple[tuple[str, str | bytes], ...]


def code_of(status: HTTPStatus) -> Any:
    return CODES.get(status, grpc.StatusCode.INTERNAL)


def code(problem: Problem) -> Any:
    return code_of(problem.status)


async def abort(context: Any, problem: Problem) -> NoReturn:
    """Ends the call with the problem's status."""
    await context.abort(code(problem), text(problem), trailing_metadata(problem))
    raise AssertionError("abort raises")


def text(problem: Problem) -> str:
    """What is wrong, with what it may be, cut to what a header may have: there other characters are written as %XX."""
    message = spelt_out(problem)[:MAX_TEXT]
    while len(quote(message)) > 2 * MAX_TEXT:
        message = message[: len(message) // 2]
    return message


def retry_after_s(problem: Problem) -> int | None:
    value = (problem.headers or {}).get("Retry-After")
    return None if value is None else int(value)


def trailing_metadata(problem: Problem) -> Trailing:
    status = status_pb2.Status(code=code(problem).value[0], message=text(problem))
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=problem.type.rpartition(":")[2], domain=DOMAIN))
    if isinstance(problem, InvalidRequest):
        status.details.add().Pack(_fields(problem))
    delay_s = retry_after_s(problem)
    if delay_s is None:
        return (("grpc-status-details-bin", status.SerializeToString()),)
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromSeconds(delay_s)
    status.details.add().Pack(retry)
    return (("grpc-status-details-bin", status.SerializeToString()), ("retry-after", str(delay_s)))


def _fields(problem: InvalidRequest) -> error_details_pb2.BadRequest:
    """Each field that was refused, as many as there is room for."""
    request = error_details_pb2.BadRequest()
    for error in problem.errors:
        description = spelt_out(InvalidRequest([error])).removeprefix(f"{error.field}: ")
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=description)
        if request.ByteSize() + violation.ByteSize() <= MAX_FIELDS:
            request.field_violations.append(violation)
    return request
