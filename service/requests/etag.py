"""The ETag of an answer: it names the images and their form, before anything is computed (RFC 9110, section 8.8.3)."""

import hashlib
from typing import Protocol

from pydantic import BaseModel


class Form(Protocol):
    """How an answer holds its result; see `encoding.Encoding`."""

    @property
    def name(self) -> str: ...
    @property
    def weak(self) -> bool: ...


def etag(resolved: BaseModel, form: Form) -> str:
    """Of a resolved request, of which all that decides the result is in its JSON."""
    digest = hashlib.sha256(f"{resolved.model_dump_json()} {form.name}".encode()).hexdigest()
    return f'W/"{digest}"' if form.weak else f'"{digest}"'


def is_match(tag: str, if_none_match: str) -> bool:
    """Whether a list of tags has this one, by weak comparison (RFC 9110, section 13.1.2)."""
    tags = [listed.strip().removeprefix("W/") for listed in if_none_match.split(",")]
    return tag.removeprefix("W/") in tags
