"""What can go wrong with a request, each kind with its status, and the one place that turns it into an answer.

    Problem
    ├── InvalidRequest   422  a field is outside its range          ├── Overloaded    429  it cannot be answered in time
    ├── MalformedBody    400  the body is not JSON                  ├── Unavailable   503  starting or draining
    ├── NotJson          415  the body does not say that it is JSON ├── StepFailed    500  the network failed
    ├── UnknownMethod    404  no model serves that method           ├── OutOfService  500  the model keeps failing
    ├── NotAcceptable    406  no such media type                    ├── Unauthorized  401  no key, or an unknown one
    ├── BodyTooLarge     413  the body is longer than allowed       ├── KeySpent      429  the key's work is used up
    └── UnknownRequest   404  no request of that id is under way    └── Cancelled     409  by DELETE /requests/{id}

An answer is `application/problem+json` (RFC 9457).
"""

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
from asgi_correlation_id import correlation_id
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from service.metrics import Metrics
from service.schemas import allowed

MEDIA_TYPE = "application/problem+json"


class FieldError(BaseModel):
    """One field that was refused: where it is, why, and what it may be."""

    field: str
    detail: str
    allowed: Any = None


class ProblemDetails(BaseModel):
    """The wire form of a problem."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldError] = []


class Problem(Exception):
    """The root of the tree; `extra` are further members of the answer."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR
    type = "about:blank"

    def __init__(self, detail: str, *, headers: Mapping[str, str] | None = None, **extra: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = headers
        self.extra = extra

    def body(self) -> dict[str, Any]:
        return _body(self.status, self.type, self.detail, self.extra)

    def response(self) -> Response:
        return _response(self.status, self.type, self.detail, self.headers, self.extra)


class InvalidRequest(Problem):
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    type = "urn:trilemma:invalid-request"

    def __init__(self, errors: Sequence[FieldError]) -> None:
        detail = "; ".join(f"{error.field}: {error.detail}" for error in errors)
        super().__init__(detail, errors=[error.model_dump() for error in errors])


class MalformedBody(Problem):
    status = HTTPStatus.BAD_REQUEST
    type = "urn:trilemma:malformed-body"


class NotJson(Problem):
    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    type = "urn:trilemma:not-json"


class UnknownMethod(Problem):
    status = HTTPStatus.NOT_FOUND
    type = "urn:trilemma:unknown-method"

    def __init__(self, method: str, known: Sequence[str]) -> None:
        super().__init__(f"no method {method!r}; the methods are: {', '.join(known)}", known=list(known))


class NotAcceptable(Problem):
    status = HTTPStatus.NOT_ACCEPTABLE
    type = "urn:trilemma:not-acceptable"

    def __init__(self, accept: str, supported: Sequence[str]) -> None:
        super().__init__(f"cannot answer as {accept!r}; it can be: {', '.join(supported)}", supported=list(supported))


class Overloaded(Problem):
    status = HTTPStatus.TOO_MANY_REQUESTS
    type = "urn:trilemma:overloaded"

    def __init__(self, detail: str, retry_after_s: float) -> None:
        super().__init__(detail, headers={"Retry-After": str(max(1, math.ceil(retry_after_s)))})


class BodyTooLarge(Problem):
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    type = "urn:trilemma:body-too-large"

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"the body is longer than {max_bytes} bytes", max_bytes=max_bytes)


class Unauthorized(Problem):
    status = HTTPStatus.UNAUTHORIZED
    type = "urn:trilemma:unauthorized"

    def __init__(self) -> None:
        super().__init__("send a key: Authorization: Bearer KEY", headers={"WWW-Authenticate": "Bearer"})


class KeySpent(Problem):
    status = HTTPStatus.TOO_MANY_REQUESTS
    type = "urn:trilemma:key-spent"

    def __init__(self, name: str, retry_after_s: float) -> None:
        detail = f"the key {name!r} has used up its work for now"
        super().__init__(detail, headers={"Retry-After": str(max(1, math.ceil(retry_after_s)))})


class Unavailable(Problem):
    status = HTTPStatus.SERVICE_UNAVAILABLE
    type = "urn:trilemma:unavailable"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"Retry-After": "1"})


class StepFailed(Problem):
    type = "urn:trilemma:step-failed"


class OutOfService(Problem):
    type = "urn:trilemma:out-of-service"

    def __init__(self, method: str) -> None:
        super().__init__(f"{method} kept failing and was taken out of service; POST /admin/reload brings it back")


class Cancelled(Problem):
    status = HTTPStatus.CONFLICT
    type = "urn:trilemma:cancelled"

    def __init__(self, id: str) -> None:
        super().__init__(f"request {id} was cancelled")


class UnknownRequest(Problem):
    status = HTTPStatus.NOT_FOUND
    type = "urn:trilemma:unknown-request"

    def __init__(self, id: str) -> None:
        super().__init__(f"no request {id!r} is under way")


def answer(error: Problem, metrics: Metrics) -> Response:
    """The problem's answer; a refusal, which is not the server's fault, is counted by reason."""
    if error.status != HTTPStatus.INTERNAL_SERVER_ERROR:
        metrics.rejections.labels(error.type.rpartition(":")[2]).inc()
    return error.response()


def install(app: FastAPI, metrics: Metrics) -> None:
    """Every error of the app, ours and the framework's, ends as a problem; refusals are counted by reason."""

    @app.exception_handler(Problem)
    async def problem(request: Request, error: Problem) -> Response:
        return answer(error, metrics)

    @app.exception_handler(RequestValidationError)
    async def validation(request: Request, error: RequestValidationError) -> Response:
        return await problem(request, from_validation(error, request.headers.get("content-type", "")))

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        return _response(HTTPStatus(error.status_code), "about:blank", str(error.detail), error.headers, {})

    @app.exception_handler(Exception)
    async def unexpected(_: Request, __: Exception) -> Response:
        detail = "an error of the server's own; its log has the request id of this answer"
        # Starlette answers here outside every middleware, so the one that adds the id does not see it.
        headers = {"X-Request-ID": correlation_id.get() or ""}
        return _response(HTTPStatus.INTERNAL_SERVER_ERROR, "about:blank", detail, headers, {})


def from_validation(error: RequestValidationError, content_type: str) -> Problem:
    """Pydantic's findings as fields with their allowed ranges, a field once."""
    details: dict[str, list[str]] = {}
    for item in error.errors():
        if item["type"] == "json_invalid":
            return MalformedBody(f"the body is not JSON: {item['ctx']['error']}")
        # loc is ("body", field) or, for a member of a union, ("body", field, member)
        field = str(item["loc"][1]) if len(item["loc"]) > 1 else "body"
        details.setdefault(field, []).append(item["msg"])
    if "body" in details and "json" not in content_type:
        return NotJson(f"the content type is {content_type or 'absent'!r}; send application/json")
    return InvalidRequest(
        [
            FieldError(field=field, detail=", or ".join(found), allowed=allowed(field))
            for field, found in details.items()
        ]
    )


def _response(
    status: HTTPStatus, kind: str, detail: str, headers: Mapping[str, str] | None, extra: Mapping[str, Any]
) -> Response:
    return Response(orjson.dumps(_body(status, kind, detail, extra)), status.value, headers, MEDIA_TYPE)


def _body(status: HTTPStatus, kind: str, detail: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": kind, "title": status.phrase, "status": status.value, "detail": detail, **extra}
