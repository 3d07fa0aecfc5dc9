"""What is wrong with a request's fields: from pydantic's errors to a problem that names each and its allowed range."""

from collections.abc import Iterable, Mapping
from functools import cache
from itertools import islice
from typing import Any

import orjson
from pydantic import BaseModel

from service.errors import MAX_ERRORS, FieldError, InvalidRequest, MalformedBody, Problem


def invalid(errors: Iterable[Mapping[str, Any]], model: type[BaseModel]) -> Problem:
    """Pydantic's errors on a body or query as fields with their allowed ranges, a field once; the first MAX_ERRORS."""
    details: dict[str, list[str]] = {}
    for item in islice(errors, MAX_ERRORS):
        if item["type"] == "json_invalid":
            return MalformedBody(f"the body is not JSON: {item['ctx']['error']}")
        details.setdefault(str(item["loc"][0]) if item["loc"] else "body", []).append(item["msg"])
    return InvalidRequest(
        [
            FieldError(field=field, detail=", or ".join(messages), allowed=allowed(field, model))
            for field, messages in details.items()
        ]
    )


def spelt_out(problem: Problem) -> str:
    """All in one line, for forms that have no place for what a field may be."""
    if not isinstance(problem, InvalidRequest):
        return problem.detail
    return "; ".join(
        f"{error.field}: {error.detail}"
        + (f"; allowed: {orjson.dumps(error.allowed).decode()}" if error.allowed else "")
        for error in problem.errors
    )


def allowed(field: str, model: type[BaseModel]) -> Any:
    """What `field` of a request may be, in JSON Schema's terms, or the known fields where there is no such field."""
    properties = _properties(model)
    if field not in properties:
        return sorted(properties)
    schema = properties[field]
    members = [member for member in schema.get("anyOf", [schema]) if member.get("type") != "null"]
    keys = ("type", "minimum", "maximum", "enum")
    described = [{key: member[key] for key in keys if key in member} for member in members]
    return described[0] if len(described) == 1 else described


@cache  # a schema takes milliseconds to build, and a body may have thousands of unknown fields
def _properties(model: type[BaseModel]) -> dict[str, Any]:
    properties: dict[str, Any] = model.model_json_schema()["properties"]
    return properties
