"""Files of pictures as requests have them."""

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def written(picture: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format, **options)
    return stream.getvalue()


def base64_of(file: bytes) -> str:
    return base64.b64encode(file).decode()


def png(pixels: NDArray[np.uint8]) -> str:
    """Base64 of (H, W) or (H, W, C)."""
    return base64_of(written(Image.fromarray(pixels)))


def noisy(height: int, width: int, channels: int = 1, seed: int = 0) -> NDArray[np.uint8]:
    """(H, W) or (H, W, C)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return pixels[..., 0] if channels == 1 else pixels


def half(height: int, width: int) -> NDArray[np.uint8]:
    """A mask that is white in the lower half, (H, W)."""
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[height // 2 :] = 255
    return mask
