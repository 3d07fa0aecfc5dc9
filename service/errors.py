"""What can go wrong with a request, each kind with its status. `http.problem_responses` turns them into answers.

Problem
├── InvalidRequest   422  a field is outside its range          ├── Overloaded    429  it cannot be answered in time
│   └── TooMuchWork  422  more work than one request may be     │
├── MalformedBody    400  the body is not JSON, or not whole    ├── Unavailable   503  starting, draining, or full
├── MalformedRequest 400  it is not HTTP as it should be        ├── StepFailed    500  the network failed
├── NotJson          415  the body does not say that it is JSON ├── OutOfService  500  the model keeps failing
├── UnknownMethod    404  no model serves that method           ├── Unauthorized  401  no key, or an unknown one
├── NotAcceptable    406  no such media type                    ├── KeySpent      429  the key's work is used up
├── BodyTooLarge     413  the body is longer than allowed       ├── Forbidden     403  it takes an administrator's key
├── HeadersTooLarge  431  the head is longer than allowed       ├── CrossSite     403  from a page of another site
├── RequestTimeout   408  the client took too long to send      ├── UntrustedHost 421  a page's name for this server
├── UnknownRequest   404  no request of that id is under way    ├── Cancelled     409  by DELETE /requests/{id}
├── UnknownVersion   404  no model has that version             ├── EncodedBody   415  the body is compressed
└── FrameworkError       what the framework refuses
"""

import math
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator

MAX_ERRORS = 20  # named in one answer
MAX_DETAIL = 4000  # characters


def shortened(text: str, most: int = 300) -> str:
    """Text for an answer, which may have what a caller sent in it: so many characters at most, and each can be encoded.

    JSON may say half of a surrogate pair, which UTF-8 cannot.
    """
    text = text if len(text) <= most else f"{text[:most]}…"
    return text.encode(errors="backslashreplace").decode()


def quoted(text: str) -> str:
    """What a caller sent, as an answer repeats it."""
    return shortened(repr(text[:80])) + "…" * (len(text) > 80)


class FieldError(BaseModel):
    """One field that was refused: where it is, why, and what it may be."""

    field: Annotated[str, BeforeValidator(shortened)]
    detail: Annotated[str, BeforeValidator(shortened)]
    allowed: Any = None


class ProblemDetails(BaseModel):
    """The wire form of a problem (RFC 9457)."""

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
        self.detail = shortened(detail, MAX_DETAIL)
        self.headers = headers
        self.extra = extra

    def body(self) -> dict[str, Any]:
        """As RFC 9457 has it."""
        members = {"title": self.status.phrase, "status": self.status.value, "detail": self.detail}
        return {"type": self.type, **members, **self.extra}


class InvalidRequest(Problem):
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    type = "urn:trilemma:invalid-request"

    def __init__(self, errors: Sequence[FieldError]) -> None:
        self.errors = errors[:MAX_ERRORS]
        detail = "; ".join(f"{error.field}: {error.detail}" for error in self.errors)
        super().__init__(detail, errors=[error.model_dump() for error in self.errors])

    @classmethod
    def of(cls, field: str, detail: str, allowed: Any) -> "InvalidRequest":
        """For one field."""
        return cls([FieldError(field=field, detail=detail, allowed=allowed)])

    def renamed(self, name: Callable[[str], str]) -> "InvalidRequest":
        """The same with other names of the fields."""
        renamed = InvalidRequest([error.model_copy(update={"field": name(error.field)}) for error in self.errors])
        renamed.type = self.type
        return renamed


class TooMuchWork(InvalidRequest):
    """One request's work is bounded, whatever the load."""

    type = "urn:trilemma:too-much-work"

    def __init__(self, work_s: float, max_s: float, field: str, value: int) -> None:
        detail = f"this is {work_s:.0f} s of work on this machine; one request may be at most {max_s:.0f} s"
        allowed = {"min": 1, "max": max(1, int(value * max_s / work_s))}
        super().__init__([FieldError(field=field, detail=detail, allowed=allowed)])


class MalformedBody(Problem):
    status = HTTPStatus.BAD_REQUEST
    type = "urn:trilemma:malformed-body"


class MalformedRequest(Problem):
    status = HTTPStatus.BAD_REQUEST
    type = "urn:trilemma:malformed-request"


class NotJson(Problem):
    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    type = "urn:trilemma:not-json"


class EncodedBody(Problem):
    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    type = "urn:trilemma:encoded-body"

    def __init__(self, coding: str) -> None:
        detail = f"the body is compressed: Content-Encoding is {quoted(coding)}; send it as it is"
        super().__init__(detail, headers={"Accept-Encoding": "identity"})  # RFC 9110, section 12.5.3


class FrameworkError(Problem):
    """What the framework refuses."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None) -> None:
        super().__init__(detail, headers=headers)
        self.status = HTTPStatus(status)


class UnknownMethod(Problem):
    status = HTTPStatus.NOT_FOUND
    type = "urn:trilemma:unknown-method"

    def __init__(self, method: str, known: Sequence[str]) -> None:
        super().__init__(f"no method {quoted(method)}; the methods are: {', '.join(known)}", known=list(known))


class UnknownVersion(Problem):
    status = HTTPStatus.NOT_FOUND
    type = "urn:trilemma:unknown-version"

    def __init__(self, method: str, version: str, known: Sequence[str]) -> None:
        super().__init__(f"{method} has no version {quoted(version)}; it has: {', '.join(known)}", known=list(known))


class NotAcceptable(Problem):
    status = HTTPStatus.NOT_ACCEPTABLE
    type = "urn:trilemma:not-acceptable"

    def __init__(self, accept: str, supported: Sequence[str]) -> None:
        detail = f"cannot answer as {quoted(accept)}; it can be: {', '.join(supported)}"
        super().__init__(detail, supported=list(supported))


class Overloaded(Problem):
    status = HTTPStatus.TOO_MANY_REQUESTS
    type = "urn:trilemma:overloaded"

    def __init__(self, detail: str, retry_after_s: float) -> None:
        super().__init__(detail, headers={"Retry-After": str(max(1, math.ceil(retry_after_s)))})


class BodyTooLarge(Problem):
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    type = "urn:trilemma:body-too-large"

    def __init__(self, max_bytes: int, what: str = "the body") -> None:
        super().__init__(f"{what} is longer than {max_bytes} bytes", max_bytes=max_bytes)


class HeadersTooLarge(Problem):
    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    type = "urn:trilemma:headers-too-large"

    def __init__(self, max_bytes: int, max_headers: int) -> None:
        detail = f"the request's line and headers are longer than {max_bytes} bytes, or more than {max_headers}"
        super().__init__(detail, max_bytes=max_bytes, max_headers=max_headers)


class RequestTimeout(Problem):
    status = HTTPStatus.REQUEST_TIMEOUT
    type = "urn:trilemma:request-timeout"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the request was not sent whole within {seconds:g} s")


class CrossSite(Problem):
    status = HTTPStatus.FORBIDDEN
    type = "urn:trilemma:cross-site"

    def __init__(self, origin: str) -> None:
        super().__init__(f"a page of {quoted(origin)} may not do this; --cors-origins lists those that may")


class UntrustedHost(Problem):
    status = HTTPStatus.MISDIRECTED_REQUEST
    type = "urn:trilemma:untrusted-host"

    def __init__(self, host: str) -> None:
        super().__init__(f"a page may not call this server {quoted(host)}; --trusted-hosts lists the names that it has")


class Unauthorized(Problem):
    status = HTTPStatus.UNAUTHORIZED
    type = "urn:trilemma:unauthorized"

    def __init__(self) -> None:
        super().__init__("send a key: Authorization: Bearer KEY", headers={"WWW-Authenticate": "Bearer"})


class Forbidden(Problem):
    status = HTTPStatus.FORBIDDEN
    type = "urn:trilemma:forbidden"

    def __init__(self, name: str) -> None:
        super().__init__(f"the key {name!r} is not an administrator's")


class KeySpent(Problem):
    status = HTTPStatus.TOO_MANY_REQUESTS
    type = "urn:trilemma:key-spent"

    def __init__(self, name: str, retry_after_s: float) -> None:
        detail = f"the key {name!r} has used up its work budget for now"
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
        super().__init__(
            f"{method} was taken out of service after repeated failures; POST /admin/reload loads it again"
        )


class Cancelled(Problem):
    status = HTTPStatus.CONFLICT
    type = "urn:trilemma:cancelled"

    def __init__(self, id: str) -> None:
        super().__init__(f"request {id} was cancelled")


class UnknownRequest(Problem):
    status = HTTPStatus.NOT_FOUND
    type = "urn:trilemma:unknown-request"

    def __init__(self, id: str) -> None:
        super().__init__(f"no request {quoted(id)} is under way")
