"""From a problem to its answer, in the form of the protocol that was spoken: the one place where errors end.

`/v1` answers as OpenAI does, `/v2` as the Open Inference Protocol has it, the rest in `application/problem+json`.
"""

from http import HTTPStatus
from itertools import islice
from typing import Any

import orjson
from asgi_correlation_id import correlation_id
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from service.errors import MAX_ERRORS, FrameworkError, InvalidRequest, NotJson, Problem, quoted
from service.requests.validation import invalid, spelt_out
from service.telemetry.metrics import Metrics

JSON, PROBLEM = "application/json", "application/problem+json"
OPENAI_CODES = {  # the others are their reason
    "blank": None,
    "unknown-method": "model_not_found",
    "unauthorized": "invalid_api_key",
    "overloaded": "rate_limit_exceeded",
}


def openai(problem: Problem) -> dict[str, Any]:
    """https://platform.openai.com/docs/guides/error-codes"""
    reason = problem.type.rpartition(":")[2]
    fields = problem.errors if isinstance(problem, InvalidRequest) else []
    kind = "server_error" if problem.status >= 500 else "invalid_request_error"
    error = {
        "message": spelt_out(problem),
        "type": "rate_limit_error" if problem.status == HTTPStatus.TOO_MANY_REQUESTS else kind,
        "param": fields[0].field if fields else None,
        "code": OPENAI_CODES.get(reason, reason.replace("-", "_")),
    }
    return {"error": error}


def inference_protocol(problem: Problem) -> dict[str, Any]:
    """https://github.com/open-inference/open-inference-protocol, "Inference Response JSON Error Object"."""
    return {"error": spelt_out(problem)}


def response(problem: Problem, path: str) -> Response:
    """The problem as the protocol at `path` says it; what was asked wrongly is a plain 400 in the borrowed ones."""
    if _within(path, "/v1"):
        body, media_type = openai(problem), JSON
    elif _within(path, "/v2"):
        body, media_type = inference_protocol(problem), JSON
    else:
        return Response(orjson.dumps(problem.body()), problem.status.value, problem.headers, PROBLEM)
    wrong = problem.status == HTTPStatus.UNPROCESSABLE_ENTITY
    status = HTTPStatus.BAD_REQUEST if wrong else problem.status
    return Response(orjson.dumps(body), status.value, problem.headers, media_type)


def answer(problem: Problem, path: str, metrics: Metrics) -> Response:
    """The problem's answer; a refusal, which is not the server's fault, is counted by reason."""
    metrics.refused(problem)
    return response(problem, path)


def install(app: FastAPI, metrics: Metrics) -> None:
    """Every error of the app, ours and the framework's, ends as a problem; refusals are counted by reason."""

    @app.exception_handler(Problem)
    async def problem(request: Request, error: Problem) -> Response:
        return answer(error, request.url.path, metrics)

    @app.exception_handler(RequestValidationError)
    async def validation(request: Request, error: RequestValidationError) -> Response:
        # loc is ("body", field) or, for a member of a union, ("body", field, member)
        errors = [{**item, "loc": item["loc"][1:]} for item in islice(error.errors(), MAX_ERRORS)]
        content_type = request.headers.get("content-type", "absent")
        if "json" not in content_type and any(not item["loc"] for item in errors):
            return await problem(request, NotJson(f"the content type is {quoted(content_type)}; send application/json"))
        return await problem(request, invalid(errors, _model(request)))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return response(FrameworkError(error.status_code, str(error.detail), error.headers), request.url.path)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, __: Exception) -> Response:
        detail = "an error of the server's own; its log has the request id of this answer"
        # Starlette answers here outside every middleware, so the one that adds the id does not see it.
        headers = {"X-Request-ID": correlation_id.get() or ""}
        return response(Problem(detail, headers=headers), request.url.path)


def _model(request: Request) -> type[BaseModel]:
    """What the route's handler takes for its body or, without one, for its query."""
    route = request.scope["route"]
    field = route.body_field or route.dependant.query_params[0]
    model: type[BaseModel] = field.field_info.annotation
    return model


def _within(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(f"{prefix}/")
