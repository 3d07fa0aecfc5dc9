"""An image file of any kind that Pillow writes gives the pixels that a viewer shows, or is refused with a reason."""

import colorsys
import io
import struct
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, TiffImagePlugin

from models.pixels import FORMATS, REFUSED_SUFFIXES, SUFFIXES, read

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


# --- bit depths ----------------------------------------------------------------------------------------------------


def png(width: int, height: int, depth: int, colour_type: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG as its specification has it; `rows` begin with their filter byte."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    body = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in body)


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
