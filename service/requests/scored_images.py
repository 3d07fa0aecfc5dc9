"""Images whose likelihood is asked, from files to arrays of a model's size.

A picture is turned as its EXIF data says, blended with white where it is transparent, and becomes grey for a model of
one channel, or else RGB. One that is larger than the model's images is scaled down until it fits, never up. What is
left around an image is black, as in training.
"""

import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from service.engine.jobs import MAX_IMAGES
from service.errors import InvalidRequest
from service.requests.decoding import MODE_OF, from_base64, open_picture

ARRAY = b"\x93NUMPY"  # how an npy file begins
ALLOWED = {"files": ["PNG", "JPEG", "WebP", "npy"], "images": {"min": 1, "max": MAX_IMAGES}}

Pixels = NDArray[np.uint8]
Shape = tuple[int, int, int]


def read(field: str, files: Sequence[bytes | str], shape: Shape) -> Pixels:
    """Raises InvalidRequest."""
    read_images: list[Pixels] = []
    for file in files:
        content = from_base64(field, file) if isinstance(file, str) else file
        read_images += array(field, content, shape) if content.startswith(ARRAY) else [picture(field, content, shape)]
        if len(read_images) > MAX_IMAGES:
            break
    if not 1 <= len(read_images) <= MAX_IMAGES:
        raise InvalidRequest.of(field, f"1 to {MAX_IMAGES} images are taken", ALLOWED)
    return np.stack(read_images)


def array(field: str, content: bytes, shape: Shape) -> list[Pixels]:
    """The images of an npy file: uint8, or float32 in [−1, 1] as answers have it; (h, w), (n, h, w) or (n, C, h, w)."""
    stream = io.BytesIO(content)
    try:
        reads: dict[Any, Callable[..., Any]] = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        found, fortran, dtype = reads[np.lib.format.read_magic(stream)](stream)
    except Exception as error:  # a header is parsed as Python's literals, which fail in many ways
        raise InvalidRequest.of(field, "the npy file has no header that can be read", ALLOWED) from error
    left = len(content) - stream.tell()
    if fortran or dtype not in (np.uint8, np.dtype("<f4")) or math.prod(found) * dtype.itemsize != left:
        detail = f"an array of {dtype} {found} with {left} bytes"[:200]
        raise InvalidRequest.of(field, detail, {"dtype": ["uint8", "float32"], "order": "C", "whole": True})
    channels, height, width = shape
    values = np.frombuffer(content, dtype, offset=stream.tell())
    full = found if len(found) == 4 else ((1, 1, *found) if len(found) == 2 else (*found[:1], 1, *found[1:]))
    if not (
        len(found) in (2, 3, 4)
        and 1 <= full[0] <= MAX_IMAGES
        and full[1] == channels
        and 1 <= full[2] <= height
        and 1 <= full[3] <= width
    ):
        detail = f"an array of shape {found}"[:200]
        allowed = {"shape": f"(n, {channels}, h, w)", "n": [1, MAX_IMAGES], "h": [1, height], "w": [1, width]}
        raise InvalidRequest.of(field, detail, allowed)
    if dtype != np.uint8:
        if not (np.abs(values) <= 1).all():
            raise InvalidRequest.of(field, "it has numbers that are no pixels", {"min": -1, "max": 1})
        values = np.round((values + 1) * 127.5).astype(np.uint8)  # as `encoding.pixels`
    return [on_black(image, shape) for image in values.reshape(full)]


def picture(field: str, content: bytes, shape: Shape) -> Pixels:
    """(C, H, W) of a PNG, JPEG or WebP file. Raises InvalidRequest."""
    channels, height, width = shape
    if channels not in MODE_OF:
        raise InvalidRequest.of(field, f"this model has {channels} channels, which no picture has", {"files": ["npy"]})
    opened = open_picture(field, content)
    try:
        whole = on_white(ImageOps.exif_transpose(opened)).convert(MODE_OF[channels])
        whole.thumbnail((width, height), Image.Resampling.LANCZOS)  # leaves what fits as it is
    except Exception as error:  # a file that is cut off, and whatever else a decoder finds
        raise InvalidRequest.of(field, "it cannot be decoded: it is cut off, or damaged", ALLOWED) from error
    values = np.asarray(whole)
    return on_black(values.reshape(*values.shape[:2], channels).transpose(2, 0, 1), shape)


def on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    ground = Image.new("RGBA", image.size, "white")
    ground.alpha_composite(image.convert("RGBA"))
    return ground.convert("RGB")


def on_black(image: Pixels, shape: Shape) -> Pixels:
    """(C, h, w) in the middle of (C, H, W)."""
    _, height, width = image.shape
    top, left = (shape[1] - height) // 2, (shape[2] - width) // 2
    canvas = np.zeros(shape, dtype=np.uint8)
    canvas[:, top : top + height, left : left + width] = image
    return canvas
