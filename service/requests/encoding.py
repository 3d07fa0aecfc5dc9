"""From the network's numbers to files: pixels, grids and image formats."""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.engine.runtime import Array
from service.requests.request import Format

MEDIA_TYPES: dict[Format, str] = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "npy": "application/x-npy",
}
Image.init()  # loads the formats now, not in the first answer
OPTIONS: dict[str, dict[str, object]] = {"png": {}, "jpeg": {"quality": 95}, "webp": {"lossless": True}}


@dataclass(frozen=True)
class Encoding:
    """How an answer holds its images (n, C, H, W); `name` tells the forms of one request's answers apart."""

    name: str
    weak: bool  # the answer has more in it than the images, so that its bytes differ from call to call
    encode: Callable[[Array], list[bytes]]


def one_each(format: Format) -> Encoding:
    """A file for each image, for a JSON answer."""
    return Encoding(
        f"application/json;{format}", True, lambda images: [encode(image[None], format) for image in images]
    )


def one_for_all(format: Format) -> Encoding:
    """One file: an array, or a picture with a grid for n > 1."""
    return Encoding(MEDIA_TYPES[format], False, lambda images: [encode(images, format)])


RAW = Encoding("application/octet-stream", False, lambda images: [images.astype("<f4").tobytes()])


def encode(images: Array, format: Format) -> bytes:
    """A file of images (n, C, H, W) in [−1, 1]: all of them as float32 for npy, else one picture, a grid for n > 1."""
    stream = io.BytesIO()
    if format == "npy":
        np.save(stream, images)
    else:
        picture = Image.fromarray(grid([pixels(image) for image in images]))
        picture.save(stream, format, **OPTIONS[format])
    return stream.getvalue()


def pixels(image: Array) -> NDArray[np.uint8]:
    """(C, H, W) in [−1, 1] → (H, W, 1 or 3) in 0 … 255, values outside clipped.

    Of other numbers of channels, as a model of latents has, the first three, or the first of two.
    """
    image = image[: 3 if len(image) >= 3 else 1]
    return ((image.clip(-1, 1) + 1) * 127.5).round().astype(np.uint8).transpose(1, 2, 0)


def grid(tiles: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Pictures (H, W, C) of one size, row by row in a grid as near a square as it gets; grey ones as (H, W)."""
    height, width, channels = tiles[0].shape
    columns = math.ceil(math.sqrt(len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    canvas = np.zeros((rows * height, columns * width, channels), dtype=np.uint8)
    for i, tile in enumerate(tiles):
        top, left = i // columns * height, i % columns * width
        canvas[top : top + height, left : left + width] = tile
    return canvas[..., 0] if channels == 1 else canvas
