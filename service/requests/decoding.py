"""Files that callers send, as pictures: within limits on what decoding them takes, and off the event loop."""

import asyncio
import base64
import binascii
import io
import warnings
from collections.abc import Callable
from typing import TypeVar

from PIL import Image

from service.errors import InvalidRequest

T = TypeVar("T")

FORMATS = ("PNG", "JPEG", "WEBP")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")  # 8 bits a channel
MODE_OF = {1: "L", 3: "RGB"}  # by the model's channels
MAX_PIXELS = 2048 * 2048  # of a picture: decoding it takes about 50 MB
MAX_SCANS = 32  # of a JPEG file: each goes over all pixels again, and ten are usual


class Decoder:
    """Decodes files off the event loop, one request at a time: so the memory that they take is bounded."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore()

    async def run(self, decode: Callable[[], T]) -> T:
        async with self._free:
            return await asyncio.to_thread(decode)


def from_base64(field: str, text: str) -> bytes:
    """The bytes that are written in base64, or in a `data:` URL of it. Raises InvalidRequest."""
    try:
        return base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest.of(field, "it is not base64", "base64 of a file") from error


def open_picture(field: str, file: bytes) -> Image.Image:
    """The picture, whose pixels are not decoded yet. Raises InvalidRequest for one that is too large, or none."""
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


def size(picture: Image.Image) -> str:
    return f"{picture.width}x{picture.height}"
