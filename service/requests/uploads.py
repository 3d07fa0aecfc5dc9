"""What a request brings beside its numbers: pictures and starting noise, from base64 to arrays of the model's size.

A picture is scaled by one rule: its largest centred part with the model's proportions, resized to the model's size,
and left as it is where it has that size. It is turned as its EXIF data says, its alpha channel is dropped, and it
becomes grey for a model of one channel, or else RGB.
"""

import asyncio
import base64
import binascii
import hashlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from service.engine.placement import Placement
from service.engine.runtime import Array
from service.engine.start import Mask
from service.errors import InvalidRequest
from service.requests.request import GenerateRequest

T = TypeVar("T")

FORMATS = ("PNG", "JPEG", "WEBP")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")  # 8 bits a channel
MODE_OF = {1: "L", 3: "RGB"}  # by the model's channels
MAX_PIXELS = 2048 * 2048  # of a picture: decoding it takes about 50 MB
MAX_SCANS = 32  # of a JPEG file: each goes over all pixels again, and ten are usual
MAX_NOISE = 20.0  # |x_T|, of normal numbers: what is far larger could overflow in the network
HALF = 128  # of a mask: from here on a pixel is painted anew
FIELDS = ("image", "mask", "noise", "to_noise")


@dataclass(frozen=True)
class Uploads:
    """A request's own arrays, as the model of this digest takes them."""

    model: str = ""
    image: NDArray[np.uint8] | None = None  # (C, H, W)
    mask: Mask | None = None  # (H, W): true where the image is painted anew
    noise: Array | None = None  # x_T, of a state's shape
    to_noise: Array | None = None


NONE = Uploads()


class Decoder:
    """Decodes uploads off the event loop, one request at a time: so the memory that they take is bounded."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore()

    async def read(self, request: GenerateRequest, model: Placement) -> Uploads:
        """Raises InvalidRequest, which names the field."""
        return await self.run(lambda: read(request, model))

    async def run(self, decode: Callable[[], T]) -> T:
        async with self._free:
            return await asyncio.to_thread(decode)


def uploaded(request: GenerateRequest) -> list[str]:
    """The fields that have to be decoded."""
    return [field for field in FIELDS if getattr(request, field) is not None]


def read(request: GenerateRequest, model: Placement) -> Uploads:
    """Raises InvalidRequest."""
    shape, state_shape = model.bundle.manifest.shape, model.bundle.manifest.state_shape
    picture = None if request.image is None else open_picture("image", request.image)
    mask = None
    if request.mask is not None:
        masking = open_picture("mask", request.mask)
        if picture is not None and masking.size != picture.size:
            raise InvalidRequest.of("mask", f"it is {size(masking)}, and the image {size(picture)}", size(picture))
        mask = pixels("mask", masking, (1, *shape[1:]), Image.Resampling.BOX)[0] >= HALF
    return Uploads(
        model.digest,
        None if picture is None else pixels("image", picture, shape, Image.Resampling.BICUBIC),
        mask,
        None if request.noise is None else starting_noise("noise", request.noise, state_shape),
        None if request.to_noise is None else starting_noise("to_noise", request.to_noise, state_shape),
    )


def digest(array: NDArray[np.generic] | None) -> str | None:
    """What an array is in an ETag."""
    return None if array is None else hashlib.sha256(array.tobytes()).hexdigest()


def content(field: str, text: str) -> bytes:
    """The bytes that are written in base64, or in a `data:` URL of it. Raises InvalidRequest."""
    try:
        return base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest.of(field, "it is not base64", "base64 of a file") from error


def open_picture(field: str, text: str) -> Image.Image:
    """The picture, whose pixels are not decoded yet. Raises InvalidRequest for one that is too large, or none."""
    file = content(field, text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pictures that are too large for Pillow's taste
            picture = Image.open(io.BytesIO(file), formats=FORMATS)
    except Exception as error:  # Pillow raises what it likes for a broken file
        raise InvalidRequest.of(field, "it is no picture of a known format", FORMATS) from error
    if picture.width * picture.height > MAX_PIXELS:
        raise InvalidRequest.of(field, f"it is {size(picture)}: too large", {"max_pixels": MAX_PIXELS})
    if picture.mode not in MODES:
        raise InvalidRequest.of(field, f"its pixels are {picture.mode}", {"modes": MODES})
    if picture.format == "JPEG" and file.count(b"\xff\xda") > MAX_SCANS:
        raise InvalidRequest.of(field, "it has too many scans", {"max_scans": MAX_SCANS})
    return picture


def pixels(
    field: str, picture: Image.Image, shape: tuple[int, int, int], filter: Image.Resampling
) -> NDArray[np.uint8]:
    """The picture scaled to (C, H, W). Raises InvalidRequest for one that cannot be decoded, and for other channels."""
    channels, height, width = shape
    if channels not in MODE_OF:
        raise InvalidRequest.of(field, f"this model has {channels} channels, which no picture has", None)
    try:
        whole = ImageOps.exif_transpose(picture).convert(MODE_OF[channels])
        scaled = ImageOps.fit(whole, (width, height), filter)
    except Exception as error:  # a file that is cut off, and whatever else a decoder finds
        raise InvalidRequest.of(field, "the picture cannot be decoded: it is cut off, or damaged", FORMATS) from error
    return np.ascontiguousarray(np.asarray(scaled).reshape(height, width, channels).transpose(2, 0, 1))


def starting_noise(field: str, text: str, shape: tuple[int, int, int]) -> Array:
    """x_T, of float32 as `POST /invert` has it. Raises InvalidRequest."""
    allowed = {"float32": shape, "min": -MAX_NOISE, "max": MAX_NOISE}
    raw = content(field, text)
    if len(raw) != 4 * np.prod(shape):
        raise InvalidRequest.of(field, f"it has {len(raw)} bytes", allowed)
    array = np.frombuffer(raw, dtype="<f4").reshape(shape).astype(np.float32)
    if not (np.abs(array) <= MAX_NOISE).all():
        raise InvalidRequest.of(field, "it has numbers that are not finite, or too large", allowed)
    return array


def size(picture: Image.Image) -> str:
    return f"{picture.width}x{picture.height}"
