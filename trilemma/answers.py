"""The server's answers, parsed."""

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from httpx_sse import ServerSentEvent
from numpy.typing import NDArray
from PIL import Image

from trilemma.errors import Refused, Unexpected, readable


@dataclass(frozen=True)
class Step:
    """A finished step of an image, with a preview of the image where the request asked for one.

    Where the connection is slower than the model, the server leaves previews and steps out.
    """

    image: int  # index of the image among those of its seed
    index: int  # 1 for the first
    of: int
    preview: Image.Image | None


@dataclass(frozen=True)
class Generated:
    """The finished images."""

    answer: Mapping[str, Any]  # the server's JSON

    @property
    def seed(self) -> int:
        return int(self.answer["seed"])

    @cached_property
    def files(self) -> list[bytes]:
        return [base64.b64decode(image["data"], validate=True) for image in self.answer["images"]]

    @cached_property
    def images(self) -> list[Image.Image]:
        return [picture(file) for file in self.files]


@dataclass(frozen=True)
class Likelihood:
    """How likely images are, an array of n numbers each."""

    answer: Mapping[str, Any]  # the server's JSON

    @property
    def seed(self) -> int:
        return int(self.answer["seed"])

    @cached_property
    def bits_per_dimension(self) -> NDArray[np.float64]:
        return np.array([image["bits_per_dimension"] for image in self.answer["images"]], dtype=np.float64)

    @cached_property
    def standard_error(self) -> NDArray[np.float64]:
        """NaN for an estimate from one term."""
        return np.array([image["standard_error"] for image in self.answer["images"]], dtype=np.float64)


@dataclass(frozen=True)
class Inverted:
    """The starting noise of an image. `generate(**inverted.fields)` gives the image back."""

    answer: Mapping[str, Any]  # the server's JSON

    @cached_property
    def noise(self) -> NDArray[np.float32]:
        """(C, H, W)."""
        content = base64.b64decode(self.answer["noise"], validate=True)
        return np.frombuffer(content, dtype="<f4").reshape(self.answer["shape"]).astype(np.float32)

    @property
    def fields(self) -> dict[str, Any]:
        """Those of `generate` that lead back."""
        names = ("method", "steps", "solver", "settings", "class_label", "guidance", "noise")
        return {name: self.answer[name] for name in names}


def picture(file: bytes) -> Image.Image:
    return Image.open(io.BytesIO(file))


def array(content: bytes) -> NDArray[np.float32]:
    """(n, C, H, W) of an npy file. Raises Unexpected."""
    with readable():
        loaded: NDArray[np.float32] = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
        return loaded


def generated(content: bytes | str) -> Generated:
    """The JSON answer. Raises Unexpected."""
    with readable():
        answer = Generated(json.loads(content))
        if not (answer.files and answer.seed >= 0):
            raise ValueError("no images")
        return answer


def likelihood(content: bytes) -> Likelihood:
    """The JSON answer. Raises Unexpected."""
    with readable():
        answer = Likelihood(json.loads(content))
        if not (len(answer.bits_per_dimension) == len(answer.standard_error) > 0 and answer.seed >= 0):
            raise ValueError("no numbers")
        return answer


def inverted(content: bytes) -> Inverted:
    """The JSON answer. Raises Unexpected."""
    with readable():
        answer = Inverted(json.loads(content))
        answer.noise  # noqa: B018  # it can be read
        return answer


def methods(content: bytes) -> list[dict[str, Any]]:
    """What is served. Raises Unexpected."""
    with readable():
        served: list[dict[str, Any]] = json.loads(content)
    if not isinstance(served, list):
        raise Unexpected("the answer is no list of methods")
    return served


def from_event(event: ServerSentEvent) -> Step | Generated | None:
    """None for an event that is neither a step nor the end. Raises Refused or Unexpected."""
    with readable():
        match event.event:
            case "step":
                data = json.loads(event.data)
                preview = picture(base64.b64decode(data["preview"])) if "preview" in data else None
                return Step(data["image"], data["index"], data["of"], preview)
            case "completed":
                return generated(event.data)
            case "error":
                raise Refused({**json.loads(event.data)})
    return None
