"""OpenAI's edits and variations of an image, as multipart forms: inpainting and image-to-image.

https://platform.openai.com/docs/api-reference/images/createEdit and createVariation. Beside their fields a form may
have `strength`, and those that `/v1/images/generations` has more than OpenAI.
"""

import base64
import io
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartParser

from service.errors import InvalidRequest
from service.http import openai
from service.http.openai import EDIT, ERROR, GENERATION, ImageRequest, ImagesResponse
from service.http.routes import RequestOrigin, State
from service.requests.decoding import from_base64, open_picture
from service.requests.uploads import HALF
from service.requests.validation import invalid

FILES, FIELDS, FIELD_BYTES = 3, 40, 65536  # of a form at most
MultiPartParser.spool_max_size = 0  # no file on the disk, which may be full or read-only: the body is in memory already
SETTING = "settings["  # the package `openai` writes a member of an object as `settings[eta]`


class EditRequest(ImageRequest):
    """An image, and the class that it, or its masked part, is to become."""

    model_config = ConfigDict(extra="forbid", strict=False)  # a form has strings alone

    image: Annotated[str, Field(description="PNG, JPEG or WebP; its transparent part is the mask if there is no mask")]
    mask: Annotated[
        str | None, Field(description="picture as large as the image; where it is transparent, the image is edited")
    ] = None
    strength: Annotated[
        FiniteFloat | None,
        Field(gt=0, le=1, description="share of the steps that are taken from the image; 0.8, or 1 with a mask"),
    ] = None
    input_fidelity: Annotated[str | None, Field(description="accepted and ignored")] = None


class VariationRequest(EditRequest):
    """An image, of which others are to be made."""

    prompt: Annotated[str | None, Field(description="class, as in an edit")] = None  # type: ignore[assignment]


router = APIRouter(prefix="/v1", tags=["OpenAI"], responses={"4XX": ERROR, "5XX": ERROR})


def described(model: type[BaseModel]) -> dict[str, Any]:
    """The form for OpenAPI, as the handler reads it by itself."""
    schema = model.model_json_schema()
    for name in ("image", "mask"):
        schema["properties"][name] |= {"type": "string", "format": "binary"}
        schema["properties"][name].pop("anyOf", None)
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


@router.post(
    "/images/edits",
    response_model=ImagesResponse,
    responses={200: openai.events(EDIT)},
    openapi_extra=described(EditRequest),
)
async def edit(request: Request, state: State, origin: RequestOrigin) -> Response:
    """Paint the masked part of an image anew, or change all of it."""
    return await answer(EditRequest, EDIT, request, state, origin)


@router.post("/images/variations", response_model=ImagesResponse, openapi_extra=described(VariationRequest))
async def vary(request: Request, state: State, origin: RequestOrigin) -> Response:
    """Images that begin at an image."""
    return await answer(VariationRequest, GENERATION, request, state, origin)


async def answer(
    model: type[EditRequest], event: str, request: Request, state: State, origin: RequestOrigin
) -> Response:
    async with request.form(max_files=FILES, max_fields=FIELDS, max_part_size=FIELD_BYTES) as form:
        fields = await read(form)
    try:
        body = model.model_validate(fields)
    except ValidationError as error:
        raise invalid(error.errors(), model) from error
    openai.check(body, state.models.find(body.model))
    mask = await state.decoder.run(lambda: mask_of(body))
    more = {"image": body.image, "mask": mask, "strength": body.strength}
    return await openai.answer(state, origin, body, openai.generate_request(body, **more), event)


async def read(form: FormData) -> dict[str, Any]:
    """The form's fields, files in base64. Raises InvalidRequest for a field that is there twice."""
    fields: dict[str, Any] = {}
    for key, value in form.multi_items():
        name = key.removesuffix("[]")
        member = name.removeprefix(SETTING).removesuffix("]") if name.startswith(SETTING) else ""
        into, name = (fields.setdefault("settings", {}), member) if member else (fields, name)
        if name in into:
            raise InvalidRequest.of(name, "it is there more than once", {"max": 1})
        is_file = isinstance(value, UploadFile)
        into[name] = base64.b64encode(await value.read()).decode() if is_file else value  # type: ignore[union-attr]
    return fields


def mask_of(body: EditRequest) -> str | None:
    """Base64 of the mask as `POST /generate` has it: white where OpenAI's, or the image, is transparent.

    None: nothing of the image is transparent. Raises InvalidRequest.
    """
    field, text = ("image", body.image) if body.mask is None else ("mask", body.mask)
    picture = open_picture(field, from_base64(field, text))
    if not picture.has_transparency_data:
        if body.mask is not None:
            raise InvalidRequest.of("mask", "it has no transparent part", "a picture with an alpha channel")
        return None
    try:
        opacity = picture.convert("RGBA").getchannel("A")
    except Exception as error:  # whatever a decoder finds
        raise InvalidRequest.of(field, "the picture cannot be decoded: it is cut off, or damaged", None) from error
    if body.mask is None and np.asarray(opacity).min() >= HALF:
        return None
    stream = io.BytesIO()
    opacity.point(lambda value: 255 * (value < HALF)).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()
