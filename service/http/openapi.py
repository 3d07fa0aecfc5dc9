"""The description at `/openapi.json`."""

import asyncio
from functools import cache
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from pydantic.json_schema import models_json_schema

from service.http.invert import InvertRequest
from service.http.oip_schemas import InferRequest
from service.http.openai import ImageRequest
from service.requests.request import GenerateRequest
from service.requests.scoring import LikelihoodRequest

PATH = "/openapi.json"
REFERENCE = "#/components/schemas/{model}"
BODIES = GenerateRequest, InvertRequest, ImageRequest, InferRequest, LikelihoodRequest


def install(app: FastAPI) -> None:
    """Puts in pydantic's own schemas of the bodies.

    FastAPI makes floats of their bounds, which cannot say 2⁶⁴ − 1, and leaves out a body that a handler reads itself.
    """
    describe = app.openapi

    @cache
    def exact() -> dict[str, Any]:
        document = describe()
        _, schema = models_json_schema([(body, "validation") for body in BODIES], ref_template=REFERENCE)
        document["components"]["schemas"].update(schema["$defs"])
        return document

    @cache
    def written() -> bytes:
        return orjson.dumps(exact())

    async def description(_: Request) -> Response:
        if not written.cache_info().currsize:  # the first time takes tens of milliseconds
            await asyncio.to_thread(written)
        return Response(written(), media_type="application/json")

    app.openapi = exact  # type: ignore[method-assign]
    app.add_route(PATH, description)
