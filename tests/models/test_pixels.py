"""An image file of any kind that Pillow writes gives the pixels that a viewer shows, or is refused with a reason."""

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms

from models.pixels import FORMATS, REFUSED_SUFFIXES, SUFFIXES, read
from tests.models.image_samples import (
    CHANGED_BY_WRITING,
    COLOUR,
    GREY,
    INDICES,
    LOSSY,
    PALETTE,
    SAMPLES,
    SIDE,
    WIDE,
    WITHOUT_ALPHA,
    assert_shows,
    encoded,
    png,
    with_palette,
)

# --- modes and containers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", sorted(set(Image.SAVE) & set(FORMATS) - {"ICNS"}))  # which has sizes of its own
def test_a_container_gives_back_the_pixels_of_every_mode_that_it_takes(format: str) -> None:
    taken = 0
    for mode, (image, expected) in SAMPLES.items():
        if mode in CHANGED_BY_WRITING.get(format, ""):
            continue
        try:
            content = encoded(image, format)
        except (OSError, ValueError, KeyError):
            continue  # not a mode of this format
        taken += 1
        shown = COLOUR if mode == "RGBA" and format in WITHOUT_ALPHA else expected
        assert_shows(content, shown, LOSSY.get(format, 1))
    assert taken


def test_what_pillow_writes_or_opens_is_read_or_refused_by_its_suffix() -> None:
    by_suffix = Image.registered_extensions()
    assert {".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".jp2"} <= SUFFIXES
    assert {".eps", ".wmf", ".heic", ".svg", ".xbm"} <= REFUSED_SUFFIXES
    assert not SUFFIXES & REFUSED_SUFFIXES
    for suffix, format in by_suffix.items():
        assert (suffix in SUFFIXES | REFUSED_SUFFIXES) == (format in Image.OPEN)


@pytest.mark.parametrize("format", ["EPS", "XBM", "SPIDER"])
def test_a_format_that_is_refused_is_not_opened_under_another_name(format: str) -> None:
    image = Image.fromarray(GREY).convert({"XBM": "1", "SPIDER": "F"}.get(format, "L"))
    with pytest.raises(OSError, match="cannot identify"):
        read(encoded(image, format))


@pytest.mark.parametrize("format", ["TIFF", "IM", "PPM"])
def test_values_of_32_bits_are_refused_with_what_to_do(format: str) -> None:
    with pytest.raises(ValueError, match="save it with 8 or 16"):
        read(encoded(Image.fromarray(WIDE.astype(np.float32)), format))


def test_lab_colours_are_those_of_their_lightness() -> None:
    lightness = 100 / 255 * 100
    luminance = ((lightness + 16) / 116) ** 3  # CIE 1976
    grey = 255 * (1.055 * luminance ** (1 / 2.4) - 0.055)  # IEC 61966-2-1
    assert_shows(encoded(Image.new("LAB", (2, 2), (100, 128, 128)), "TIFF"), np.full((2, 2, 3), grey), 1.5)


# --- orientation, profiles, frames, transparency -------------------------------------------------------------------

# How a viewer turns the stored pixels for each value of the tag (Exif 2.32, tag 0x0112).
ORIENTATIONS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(np.swapaxes(a, 0, 1), 2),
    8: np.rot90,
}


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP", "MPO"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_an_image_is_turned_as_its_exif_says(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    wide = COLOUR[: SIDE // 2]
    content = encoded(Image.fromarray(wide), format, exif=exif)
    assert_shows(content, ORIENTATIONS[orientation](wide), LOSSY.get(format, 1))


def test_a_grey_image_of_16_bits_is_turned_too() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    assert_shows(encoded(Image.fromarray(WIDE), "PNG", exif=exif), np.rot90(np.round(WIDE / 65535 * 255), -1))


def test_a_colour_profile_is_applied() -> None:
    linear = Image.new("RGB", (2, 2), (128, 128, 128))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert read(encoded(linear, "PNG", icc_profile=profile)).tolist() == np.asarray(linear).tolist()
    xyz = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()  # of other colours: it counts for nothing
    assert read(encoded(linear, "PNG", icc_profile=xyz)).tolist() == np.asarray(linear).tolist()
    assert read(encoded(linear, "PNG", icc_profile=b"no profile")).tolist() == np.asarray(linear).tolist()
    twice_as_steep = with_gamma(profile, 1.0)
    shown = read(encoded(linear, "PNG", icc_profile=twice_as_steep))
    grey = 255 * (1.055 * (128 / 255) ** (1 / 2.4) - 0.055)  # linear light in sRGB (IEC 61966-2-1)
    np.testing.assert_allclose(shown, np.full((2, 2, 3), grey), rtol=0, atol=2)


def with_gamma(profile: bytes, gamma: float) -> bytes:
    """The profile with its curves replaced by one of a power (ICC.1:2010, section 10.5)."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
    table = bytearray(profile)
    (count,) = struct.unpack_from(">I", profile, 128)
    for i in range(count):
        name, offset, _ = struct.unpack_from(">4sII", profile, 132 + 12 * i)
        if name in (b"rTRC", b"gTRC", b"bTRC"):
            table[offset : offset + len(curve)] = curve
            struct.pack_into(">I", table, 132 + 12 * i + 8, len(curve))
    return bytes(table)


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_of_an_animation_the_first_frame_counts(format: str) -> None:
    frames = [Image.new("RGB", (SIDE, SIDE), colour) for colour in ("red", "lime", "blue")]
    content = encoded(frames[0], format, save_all=True, append_images=frames[1:])
    assert_shows(content, np.full((SIDE, SIDE, 3), (255, 0, 0)), LOSSY.get(format, 1))


def test_a_transparent_colour_of_a_palette_is_white() -> None:
    image = with_palette()
    for content in (encoded(image, "GIF", transparency=1), encoded(image, "PNG", transparency=bytes([255, 0, 255]))):
        shown = PALETTE[INDICES].copy()
        shown[INDICES == 1] = 255
        assert_shows(content, shown)


# --- what is damaged or too large ----------------------------------------------------------------------------------


def test_a_decompression_bomb_is_refused_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("unpacked"))
    for side in (5000, 12_000, 100_000):  # below, at and above what Pillow itself warns of and refuses
        with pytest.raises((ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning)):
            read(png(side, side, 8, 0, b""))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "TGA", "QOI", "JPEG2000", "AVIF"])
def test_a_damaged_file_raises_and_does_no_more(format: str) -> None:
    content = encoded(Image.fromarray(COLOUR), format)
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(content[: rng.integers(1, len(content) + 1)])
        for place in rng.integers(len(damaged), size=3):
            damaged[place] = rng.integers(256)
        try:
            shown = read(bytes(damaged))
        except Exception:  # noqa: S112  # any, but no signal, no hang and no warning
            continue
        assert shown.dtype == np.uint8
