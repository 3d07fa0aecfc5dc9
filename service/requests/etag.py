"""The ETag of an answer: it names the images and their form, before anything is computed (RFC 9110, section 8.8.3)."""

import hashlib

from service.requests.encoding import Encoding
from service.requests.resolve import Sampling


def etag(sampling: Sampling, encoding: Encoding) -> str:
    digest = hashlib.sha256(f"{sampling.model_dump_json()} {encoding.name}".encode()).hexdigest()
    return f'W/"{digest}"' if encoding.weak else f'"{digest}"'


def is_match(tag: str, if_none_match: str) -> bool:
    """Whether a list of tags has this one, by weak comparison (RFC 9110, section 13.1.2)."""
    tags = [listed.strip().removeprefix("W/") for listed in if_none_match.split(",")]
    return tag.removeprefix("W/") in tags
