"""`POST /likelihood`: how likely images are under a model, as JSON or as an array."""

from collections.abc import Sequence
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Header, Request, Response
from pydantic import BaseModel, ValidationError

from service.errors import NotJson, quoted
from service.http import responses
from service.http.routes import BINARY, PROBLEM, RequestOrigin, State
from service.http.schemas import BoundParts, LikelihoodResponse, ModelRef, ScoredImage
from service.requests.encoding import MEDIA_TYPES
from service.requests.etag import is_match
from service.requests.generation import Result
from service.requests.scoring import LikelihoodRequest, ScoreForm, Scoring, ScoringFields, table
from service.requests.validation import invalid

NPY = MEDIA_TYPES["npy"]
ANSWERS = (NPY, responses.JSON)  # JSON for */*
FILES = (*MEDIA_TYPES.values(),)  # that a body may be
NUMBERS = ("terms", "seed", "index", "deadline_ms")  # in a query
MAX_DIGITS = 20

BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            responses.JSON: {"schema": {"$ref": "#/components/schemas/LikelihoodRequest"}},
            **dict.fromkeys(FILES, BINARY),
        },
    },
    "parameters": [
        {
            "name": name,
            "in": "query",
            "required": False,
            "schema": {"type": "string"},
            "description": f"`{name}` of an image that is the body",
        }
        for name in ScoringFields.model_fields
    ],
}
ANSWERED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "JSON, or float64 (n, 5): a row an image of bits per dimension, standard error, prior, "
        "diffusion and reconstruction",
        "content": {NPY: BINARY},
    },
    304: {"description": "`If-None-Match` matches the ETag of this request. Nothing was computed"},
}
router = APIRouter(responses={"4XX": PROBLEM, "5XX": PROBLEM})


@router.post("/likelihood", response_model=LikelihoodResponse, responses=ANSWERED, openapi_extra=BODY)
async def likelihood(
    request: Request,
    state: State,
    origin: RequestOrigin,
    accept: Annotated[str, Header()] = "*/*",
    if_none_match: Annotated[str, Header()] = "",
) -> Response:
    """Bits per dimension of images under a model: an upper bound, estimated, with its standard error.

    The body is JSON, or an image or array as it is, with the other fields in the query.
    """
    media_type = responses.negotiate(accept, ANSWERS)
    fields, files = parse(request, await request.body())
    form = ScoreForm(f"{media_type};likelihood", media_type == responses.JSON)
    scoring = await Scoring.begin(state, origin, fields, files, form)
    headers = {"Trilemma-Seed": str(scoring.scores.seed), "ETag": scoring.tag, "Vary": "Accept"}
    if is_match(scoring.tag, if_none_match):
        return Response(status_code=304, headers=headers)
    result = await scoring.result()
    content = result.files[0] if media_type == NPY else json(scoring, result)
    headers |= responses.timing_headers(result, origin.arrived_s)
    return Response(content, media_type=media_type, headers=headers)


def parse(request: Request, body: bytes) -> tuple[ScoringFields, Sequence[str | bytes]]:
    """The fields, and the files of the images, text being base64. Raises InvalidRequest, MalformedBody or NotJson."""
    content_type = request.headers.get("content-type", "absent").partition(";")[0].strip().lower()
    query = request.query_params
    model: type[BaseModel] = LikelihoodRequest
    try:
        if content_type == responses.JSON:
            asked = LikelihoodRequest.model_validate_json(body)
            return asked, [asked.image] if isinstance(asked.image, str) else asked.image
        if content_type not in FILES:
            raise NotJson(f"the content type is {quoted(content_type)}; send {responses.JSON} or {', '.join(FILES)}")
        model = ScoringFields
        labels = [label or None for label in query.getlist("class_label")]
        values: dict[str, Any] = {**query, **{name: number(query[name]) for name in NUMBERS if name in query}}
        if labels:
            values["class_label"] = labels[0] if len(labels) == 1 else labels
        return ScoringFields.model_validate(values), [body]
    except ValidationError as error:
        raise invalid(error.errors(include_url=False, include_input=False), model) from error


def number(text: str) -> int | str:
    """As JSON would have it; what is no number is left for the check of its field."""
    return int(text) if text.isdecimal() and len(text) <= MAX_DIGITS else text


def json(scoring: Scoring, result: Result) -> bytes:
    """The JSON answer."""
    scores = scoring.scores
    images = [
        ScoredImage(
            index=index,
            class_label=responses.class_name(scoring.model, label),
            bits_per_dimension=bits,
            standard_error=None if scores.likelihood_terms == 1 else error,
            bound=BoundParts(prior=prior, diffusion=diffusion, reconstruction=reconstruction),
        )
        for index, (label, (bits, error, prior, diffusion, reconstruction)) in enumerate(
            zip(scores.labels, table(result.files).tolist(), strict=True), start=scores.index
        )
    ]
    response = LikelihoodResponse(
        id=scoring.origin.id,
        method=scores.method,
        terms=scores.likelihood_terms,
        seed=scores.seed,
        images=images,
        timing=responses.timing(result.job, scoring.origin.arrived_s),
        model=ModelRef(name=scores.method, digest=scores.digest),
    )
    return orjson.dumps(response.model_dump())
