"""Images of every mode that Pillow writes, what a viewer shows of each, and PNG files of every depth."""

import colorsys
import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.pixels import read

SIDE = 64
ROWS, COLUMNS = np.mgrid[0:SIDE, 0:SIDE]
GREY = (2 * ROWS + COLUMNS).astype(np.uint8)  # smooth, so that lossy containers keep it
OPACITY = (4 * COLUMNS).astype(np.uint8)
COLOUR = np.stack([GREY, 4 * COLUMNS, 255 - 4 * ROWS], axis=-1).astype(np.uint8)
WIDE = (ROWS * SIDE + COLUMNS).astype(np.uint16) * 16
PALETTE = np.array([[10, 20, 30], [250, 0, 0], [0, 250, 0], [70, 80, 90]], dtype=np.uint8)
INDICES = (COLUMNS % 4).astype(np.uint8)
BLACK = GREY // 4  # of CMYK
LOSSY = {"AVIF": 8, "JPEG": 8, "MPO": 10}  # by how many of 255 levels their pixels may be off
OPTIONS: dict[str, dict[str, Any]] = {
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    "JPEG": {"quality": 98},
}
WITHOUT_ALPHA = {"BMP", "DIB", "PCX", "PPM"}
# What Pillow writes other than it is: with fewer colours, clamped to 8 bits, or in the wrong order of bytes.
CHANGED_BY_WRITING: dict[str, tuple[str, ...]] = {
    "AVIF": ("I;16", "I;16B"),
    "GIF": ("RGB", "LA", "RGBA", "I;16", "I;16B"),
    "JPEG2000": ("I;16B",),
    "WEBP": ("I;16", "I;16B"),
}


def on_white(colours: NDArray[np.uint8], opacity: NDArray[np.uint8]) -> NDArray[np.float64]:
    share = (opacity / 255).reshape(*opacity.shape, *[1] * (colours.ndim - 2))
    return np.asarray(colours * share + 255 * (1 - share))


def rgb_of_hsv(values: NDArray[np.uint8]) -> NDArray[np.float64]:
    flat = [colorsys.hsv_to_rgb(*pixel) for pixel in (values / 255).reshape(-1, 3)]
    return np.array(flat).reshape(values.shape) * 255


def rgb_of_ycbcr(values: NDArray[np.uint8]) -> NDArray[np.float64]:
    """JFIF's equations (ITU-T T.871, section 7)."""
    y, cb, cr = values[..., 0], values[..., 1] - 128.0, values[..., 2] - 128.0
    return np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1).clip(0, 255)


def of_bytes(mode: str, *planes: NDArray[np.uint8]) -> Image.Image:
    return Image.frombytes(mode, (SIDE, SIDE), np.dstack(planes).tobytes())


def with_palette() -> Image.Image:
    image = Image.fromarray(INDICES)
    image.putpalette(PALETTE.tobytes())
    return image


# An image of each mode, and what a viewer shows of it: (h, w) if it is grey, else (h, w, 3).
SAMPLES: dict[str, tuple[Image.Image, NDArray[Any]]] = {
    "1": (Image.fromarray(GREY > 90), 255 * (GREY > 90)),
    "L": (Image.fromarray(GREY), GREY),
    "LA": (of_bytes("LA", GREY, OPACITY), on_white(GREY, OPACITY)),
    "P": (with_palette(), PALETTE[INDICES]),
    "PA": (with_palette().convert("PA"), PALETTE[INDICES]),
    "RGB": (Image.fromarray(COLOUR), COLOUR),
    "RGBX": (Image.fromarray(COLOUR).convert("RGBX"), COLOUR),
    "RGBA": (of_bytes("RGBA", COLOUR, OPACITY), on_white(COLOUR, OPACITY)),
    "CMYK": (of_bytes("CMYK", COLOUR, BLACK), (255.0 - COLOUR) * (255 - BLACK[..., None]) / 255),
    "YCbCr": (of_bytes("YCbCr", COLOUR), rgb_of_ycbcr(COLOUR)),
    "HSV": (of_bytes("HSV", COLOUR), rgb_of_hsv(COLOUR)),
    "I;16": (Image.fromarray(WIDE), np.round(WIDE / 65535 * 255)),
    "I;16B": (Image.frombytes("I;16B", (SIDE, SIDE), WIDE.astype(">u2").tobytes()), np.round(WIDE / 65535 * 255)),
}


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what a format drops
        image.save(file, format, **{**OPTIONS.get(format, {}), **options})
    return file.getvalue()


def assert_shows(content: bytes, expected: NDArray[Any], tolerance: float = 1.0) -> None:
    """The pixels are these; grey ones may be stored as colours."""
    shown = read(content)
    assert shown.dtype == np.uint8
    a, b = (array if array.ndim == 3 else array[..., None] for array in (shown.astype(float), expected.astype(float)))
    assert a.shape[:2] == b.shape[:2]
    np.testing.assert_allclose(*np.broadcast_arrays(a, b), rtol=0, atol=tolerance)


def png(width: int, height: int, depth: int, colour_type: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG as its specification has it; `rows` begin with their filter byte."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    body = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in body)
