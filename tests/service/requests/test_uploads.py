"""What is uploaded: one rule for sizes, exact pixels, and a refusal that names the field for whatever is wrong."""

import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bundle.loading import Bundle, load
from service.engine.placement import Placement
from service.errors import InvalidRequest
from service.requests.decoding import MAX_PIXELS, MAX_SCANS
from service.requests.request import GenerateRequest
from service.requests.uploads import Uploads, read
from tests.conftest import write_bundle
from tests.picture_files import base64_of, half, noisy, png, written


def upload(bundle: Bundle, **fields: Any) -> Uploads:
    return read(GenerateRequest(method="toy", **fields), Placement(bundle, "cpu", "digest"))


@pytest.fixture
def colour(tmp_path: Any) -> Bundle:
    return load(write_bundle(tmp_path / "colour", shape=(3, 4, 6), state_shape=(3, 4, 6)))


def test_a_picture_of_the_models_size_is_left_as_it_is(toy: Bundle, colour: Bundle) -> None:
    grey, rgb = noisy(4, 4), noisy(4, 6, 3)
    np.testing.assert_array_equal(upload(toy, image=png(grey)).image, grey[None])
    np.testing.assert_array_equal(upload(colour, image=png(rgb)).image, rgb.transpose(2, 0, 1))


def test_the_largest_centred_part_with_the_models_proportions_is_scaled(colour: Bundle) -> None:
    pixels = np.zeros((80, 200, 3), dtype=np.uint8)
    pixels[:, 40:160] = (10, 200, 30)  # 120 × 80, as 6 × 4 is
    got = upload(colour, image=png(pixels)).image
    assert got is not None
    colours = got.reshape(3, -1).T.astype(int)
    np.testing.assert_allclose(colours, np.broadcast_to([10, 200, 30], colours.shape), atol=20)  # edges see the rest


def test_a_smaller_picture_has_black_around_it_as_in_training(toy: Bundle) -> None:
    grey = noisy(2, 2)
    for changes in ({}, {"mask": png(half(2, 2))}):
        uploads = upload(toy, image=png(grey), **changes)
        np.testing.assert_array_equal(uploads.image, np.pad(grey, 1)[None])
    assert uploads.mask is not None
    np.testing.assert_array_equal(uploads.mask, np.pad(half(2, 2), 1) > 0)


def test_modes_become_those_of_the_model(toy: Bundle, colour: Bundle) -> None:
    grey = noisy(4, 4)
    alpha = np.dstack([np.repeat(grey[..., None], 3, axis=2), 255 - grey])
    for picture in (Image.fromarray(alpha), Image.fromarray(grey).convert("P"), Image.fromarray(grey).convert("LA")):
        np.testing.assert_array_equal(upload(toy, image=base64_of(written(picture))).image, grey[None])
    got = upload(colour, image=png(noisy(4, 6))).image
    np.testing.assert_array_equal(got, np.stack([noisy(4, 6)] * 3))


def test_a_photo_is_turned_as_it_says(colour: Bundle) -> None:
    sideways, exif = noisy(6, 4, 3), Image.Exif()
    exif[0x0112] = 6  # turn it by 90° clockwise
    got = upload(colour, image=base64_of(written(Image.fromarray(sideways), exif=exif))).image
    np.testing.assert_array_equal(got, np.rot90(sideways, -1).transpose(2, 0, 1))


def test_a_data_url_is_taken(toy: Bundle) -> None:
    plain = upload(toy, image=png(noisy(4, 4)))
    np.testing.assert_array_equal(upload(toy, image="data:image/png;base64," + png(noisy(4, 4))).image, plain.image)


def test_a_mask_is_scaled_as_its_image_and_white_where_half_of_a_pixel_is(toy: Bundle) -> None:
    mask = upload(toy, image=png(noisy(40, 40)), mask=png(half(40, 40))).mask
    np.testing.assert_array_equal(mask, half(4, 4) > 0)


def header_alone(width: int, height: int) -> bytes:
    """A PNG file that says how large it is, and has all of its pixels in a few bytes: a decompression bomb."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(10_000_000))) + chunk(b"IEND", b"")


def many_scans() -> bytes:
    """A progressive JPEG whose last scan is there again and again."""
    file = written(Image.fromarray(noisy(64, 64)), "JPEG", progressive=True)
    last = file[file.rindex(b"\xff\xda") : -2]
    return file[:-2] + last * MAX_SCANS + file[-2:]


def sixteen_bits() -> bytes:
    return written(Image.fromarray(np.arange(16, dtype=np.uint16).reshape(4, 4) * 4000))


WHOLE = written(Image.fromarray(noisy(64, 64)))
HOSTILE: dict[str, Callable[[], bytes]] = {
    "bomb": lambda: header_alone(50_000, 50_000),
    "bomb-of-pillow's-own-limit": lambda: header_alone(13_000, 13_000),
    "just-too-large": lambda: written(Image.new("1", (2048, 2049))),
    "no-pixels": lambda: header_alone(0, 10),
    "fewer-pixels-than-it-says": lambda: WHOLE[:-200],
    "cut-off-header": lambda: WHOLE[:20],
    "jpeg-cut-off": lambda: written(Image.fromarray(noisy(64, 64)), "JPEG")[:700],
    "webp-cut-off": lambda: written(Image.fromarray(noisy(64, 64)), "WEBP")[:300],
    "jpeg-of-many-scans": many_scans,
    "gif": lambda: written(Image.fromarray(noisy(4, 4)), "GIF"),
    "tiff": lambda: written(Image.fromarray(noisy(4, 4)), "TIFF"),
    "16-bits": sixteen_bits,
    "text": lambda: b"not a picture",
    "svg": lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "postscript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "nothing": lambda: b"",
}


@pytest.mark.parametrize("field", ["image", "mask"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_refused_by_the_name_of_its_field(toy: Bundle, field: str, kind: str) -> None:
    fields = {"image": png(noisy(64, 64)), field: base64_of(HOSTILE[kind]())}
    with pytest.raises(InvalidRequest) as refused:
        upload(toy, **fields)
    assert [error.field for error in refused.value.errors] == [field]


def test_the_largest_picture_passes(toy: Bundle) -> None:
    side = int(MAX_PIXELS**0.5)
    assert upload(toy, image=base64_of(written(Image.new("RGB", (side, side), "white")))).image is not None


@pytest.mark.parametrize("text", ["%%%", "data:image/png;base64", "QUJD\n=", "ÄÖ"])
def test_what_is_not_base64_is_refused(toy: Bundle, text: str) -> None:
    with pytest.raises(InvalidRequest, match="image"):
        upload(toy, image=text)


def test_a_mask_of_another_size_is_refused(toy: Bundle) -> None:
    with pytest.raises(InvalidRequest, match="mask: it is 4x4, and the image 8x4"):
        upload(toy, image=png(noisy(4, 8)), mask=png(half(4, 4)))


def test_noise_comes_through_exactly_and_no_other_numbers_do(toy: Bundle) -> None:
    noise = np.random.default_rng(0).standard_normal((1, 4, 4)).astype(np.float32)
    np.testing.assert_array_equal(upload(toy, noise=base64_of(noise.tobytes())).noise, noise)
    for wrong in (noise[:, :3], noise * np.nan, noise * np.inf, noise * 1000):
        with pytest.raises(InvalidRequest, match="noise"):
            upload(toy, noise=base64_of(wrong.tobytes()))


def test_models_with_other_channels_than_pictures_refuse_them(tmp_path: Any) -> None:
    two = load(write_bundle(tmp_path / "two", shape=(2, 4, 4), state_shape=(2, 4, 4)))
    with pytest.raises(InvalidRequest, match="2 channels"):
        upload(two, image=png(noisy(4, 4)))
