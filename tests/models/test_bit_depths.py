"""Grey and colour of every number of bits come out in their range, also where zero is white or a value transparent."""

import struct

import numpy as np
import pytest
from PIL import ExifTags, Image, TiffImagePlugin

from tests.models.image_samples import WIDE, assert_shows, encoded, png


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_grey_png_of_every_depth_has_its_range(depth: int) -> None:
    values = np.array([0, 1, 2**depth // 3, 2**depth - 1])
    bits = "".join(f"{value:0{depth}b}" for value in values)
    row = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    assert_shows(png(4, 1, depth, 0, b"\0" + row), np.round(values / (2**depth - 1) * 255)[None], 0)


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_a_png_of_16_bits_a_channel_is_scaled(colour_type: int, channels: int) -> None:
    values = np.array([1000, 30_000, 65_535, 40_000], dtype=np.uint16)[: channels if channels > 2 else 2]
    shown = values / 65535 * 255
    if colour_type == 4:
        shown = shown[:1] * values[1] / 65535 + 255 * (1 - values[1] / 65535)
    elif colour_type == 6:
        shown = shown[:3] * values[3] / 65535 + 255 * (1 - values[3] / 65535)
    assert_shows(png(1, 1, 16, colour_type, b"\0" + values.astype(">u2").tobytes()), shown[None, None], 1.5)


@pytest.mark.parametrize("depth", [8, 16])
def test_a_grey_that_stands_for_transparency_is_white(depth: int) -> None:
    dtype = ">u1" if depth == 8 else ">u2"
    row = np.array([7, 8], dtype=dtype).tobytes()
    content = png(2, 1, depth, 0, b"\0" + row, (b"tRNS", struct.pack(">H", 7)))
    assert_shows(content, np.array([[255, 8 if depth == 8 else 0]]), 0)


def tiff(image: Image.Image, **tags: int) -> bytes:
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for name, value in tags.items():
        directory[getattr(ExifTags.Base, name)] = value
    return encoded(image, "TIFF", tiffinfo=directory)


def test_a_tiff_whose_zero_is_white_is_inverted_in_16_bits_too() -> None:
    assert_shows(tiff(Image.fromarray(WIDE), PhotometricInterpretation=0), np.round(255 - WIDE / 65535 * 255))


def test_a_tiff_of_12_bits_has_its_range() -> None:
    raw = bytes([0xFF, 0xF0, 0x00])  # 4095 and 0, packed
    tags = [(256, 4, 2), (257, 4, 1), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (279, 4, 3)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    content = b"II*\0" + struct.pack("<I", 12) + raw + b"\0" + struct.pack("<H", len(tags)) + entries + bytes(4)
    assert_shows(content, np.array([[255, 0]]), 0)


def test_a_pgm_of_16_bits_is_scaled_by_its_own_largest_value() -> None:
    content = b"P5 2 1 1000\n" + struct.pack(">HH", 1000, 500)
    assert_shows(content, np.array([[255, 128]]))
