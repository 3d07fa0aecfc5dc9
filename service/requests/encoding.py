"""From the network's numbers to files: pixels, grids and image formats."""

import io
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.engine.jobs import Array
from service.http.schemas import Format

MEDIA_TYPES: dict[Format, str] = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "npy": "application/x-npy",
}
Image.init()  # loads the formats now, not in the first answer
OPTIONS: dict[str, dict[str, object]] = {"png": {}, "jpeg": {"quality": 95}, "webp": {"lossless": True}}


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
    """(C, H, W) in [−1, 1] → (H, W, C) in 0 … 255, values outside clipped."""
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
