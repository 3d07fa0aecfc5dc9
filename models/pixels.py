"""Reads one image file as a viewer shows it: upright, in sRGB, the first of several frames, on a white ground."""

import io
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

MAX_PIXELS = 2**24  # of one image; what claims more is taken for a decompression bomb
WHITE = 255
GREY_MODES = {"1", "L", "LA", "La", "I", "F"}  # and all that begin with "I;"
SRGB = ImageCms.createProfile("sRGB")
PHOTOMETRIC, BITS_A_SAMPLE = 262, 258  # TIFF's tags
WHITE_IS_ZERO = 0
# What Pillow opens and no viewer shows alike, or only with another program's help (EPS: it runs Ghostscript).
REFUSED_FORMATS = {"BUFR", "EPS", "FITS", "GRIB", "HDF5", "IPTC", "MCIDAS", "MPEG", "PCD", "SPIDER", "WMF", "XBM"}
# Images by their suffix that are not among Pillow's: to leave them out would lose a class of photographs.
FOREIGN_SUFFIXES = {".heic", ".heif", ".jxl", ".svg"}


def _formats() -> tuple[list[str], set[str], set[str]]:
    """Pillow's formats that are read here, their suffixes, and the suffixes of images that are refused."""
    Image.init()
    by_suffix = {suffix: format for suffix, format in Image.registered_extensions().items() if format in Image.OPEN}
    taken = sorted(set(Image.OPEN) - REFUSED_FORMATS)
    suffixes = {suffix for suffix, format in by_suffix.items() if format in taken}
    return taken, suffixes, set(by_suffix) - suffixes | FOREIGN_SUFFIXES


FORMATS, SUFFIXES, REFUSED_SUFFIXES = _formats()


def read(content: bytes) -> NDArray[np.uint8]:
    """The pixels of an image file: uint8 (h, w) if it is grey, else (h, w, 3).

    An orientation by EXIF is applied, and so is a colour profile. 16 bits are scaled to 8. What is transparent is
    blended with white. Raises ValueError with what to do for an image that has no one look, and whatever Pillow and its
    decoders raise for a damaged one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd but readable files
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.height}×{image.width} pixels are more than {MAX_PIXELS:,}: make it smaller")
            image.load()
            upright = ImageOps.exif_transpose(image)
            if image.mode in GREY_MODES or image.mode.startswith("I;"):
                return _grey(upright, image)
            return np.asarray(_coloured(upright))


def _grey(upright: Image.Image, source: Image.Image) -> NDArray[np.uint8]:
    if upright.mode.startswith("I;") or (upright.mode == "I" and source.format == "PPM"):
        return _scaled(np.asarray(upright), upright.info.get("transparency"), getattr(source, "tag_v2", {}))
    if upright.mode in ("I", "F"):
        raise ValueError("no range says what is black and what is white in 32 bits: save it with 8 or 16")
    return np.asarray(_on_white(upright, "L"))


def _scaled(values: NDArray[Any], transparent: int | None, tags: Any) -> NDArray[np.uint8]:
    """Unsigned values of up to 16 bits as 8, where `transparent` is a value that shows the ground."""
    (bits, *_) = tags.get(BITS_A_SAMPLE, (16,))
    largest = 2**bits - 1
    wide = values.astype(np.float64)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        wide = largest - wide
    shown = np.round(wide * (WHITE / largest)).astype(np.uint8)
    return shown if transparent is None else np.where(values == transparent, np.uint8(WHITE), shown)


def _coloured(image: Image.Image) -> Image.Image:
    """In sRGB; a profile that is damaged, or of another kind of colours than the image, counts for nothing."""
    plain = _on_white(image, "RGB")
    profile = image.info.get("icc_profile")
    if not profile:
        return plain
    try:
        embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        source = image if image.mode == "CMYK" else plain
        return ImageCms.profileToProfile(source, embedded, SRGB, outputMode="RGB") or plain
    except (ImageCms.PyCMSError, OSError):
        return plain


def _on_white(image: Image.Image, mode: str) -> Image.Image:
    """In `mode`, L or RGB, blended with white where it is transparent."""
    if not image.has_transparency_data:
        return image.convert(mode)
    layered = image.convert({"L": "LA", "RGB": "RGBA"}[mode])
    ground = Image.new(mode, image.size, "white")
    ground.paste(layered.convert(mode), mask=layered.getchannel("A"))
    return ground
