"""What a server answers, as a caller wants it."""

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import httpx
import numpy as np
from httpx_sse import ServerSentEvent
from numpy.typing import NDArray
from PIL import Image


class Refused(Exception):
    """The server's problem (RFC 9457); `problem["errors"]` names the fields and what they may be."""

    def __init__(self, problem: Mapping[str, Any]) -> None:
        super().__init__(f"{problem.get('status')} {problem.get('detail')}")
        self.problem = problem
        self.status = problem.get("status")


@dataclass(frozen=True)
class Step:
    """A step that an image has done, and on the way, where that was asked for, what it looks like so far."""

    image: int
    index: int  # 1 for the first
    of: int
    preview: Image.Image | None


@dataclass(frozen=True)
class Generated:
    """The finished images, and all that made them."""

    answer: Mapping[str, Any]  # as the server said it

    @property
    def seed(self) -> int:
        return int(self.answer["seed"])

    @cached_property
    def files(self) -> list[bytes]:
        return [base64.b64decode(image["data"]) for image in self.answer["images"]]

    @cached_property
    def images(self) -> list[Image.Image]:
        return [picture(file) for file in self.files]


def picture(file: bytes) -> Image.Image:
    return Image.open(io.BytesIO(file))


def array(content: bytes) -> NDArray[np.float32]:
    """(n, C, H, W)"""
    loaded: NDArray[np.float32] = np.load(io.BytesIO(content), allow_pickle=False)
    return loaded


def told(event: ServerSentEvent) -> Step | Generated | None:
    """What an event of a stream says; nothing for one that only says that the request is accepted. Raises Refused."""
    data = json.loads(event.data)
    match event.event:
        case "step":
            preview = picture(base64.b64decode(data["preview"])) if "preview" in data else None
            return Step(data["image"], data["index"], data["of"], preview)
        case "completed":
            return Generated(data)
        case "error":
            raise Refused(data)
    return None


def refusal(response: httpx.Response) -> Refused:
    """Of a response that was read."""
    if response.headers.get("content-type") == "application/problem+json":
        return Refused(response.json())
    return Refused({"status": response.status_code, "detail": response.text})
