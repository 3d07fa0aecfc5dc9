"""What callers send as images: the rule by which it becomes the model's size, and what is refused before it costs."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from models.data import to_model
from service.engine.jobs import MAX_IMAGES
from service.errors import InvalidRequest
from service.requests.decoding import MAX_PIXELS, MAX_SCANS
from service.requests.encoding import encode
from service.requests.scored_images import read

GREY, COLOUR = (1, 8, 8), (3, 8, 8)


def file(image: Image.Image, format: str = "png", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def npy(array: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def pixels(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def refused(content: bytes | str, shape: tuple[int, int, int] = GREY) -> str:
    with pytest.raises(InvalidRequest) as refusal:
        read("image", [content], shape)
    (error,) = refusal.value.errors
    assert error.field == "image"
    assert error.allowed
    return error.detail


@pytest.mark.parametrize("size", [(8, 8), (5, 8), (5, 6), (1, 1)])
def test_an_image_is_padded_as_the_training_data_were(size: tuple[int, int]) -> None:
    raw = pixels(*size)
    expected = to_model(raw[None, None], 8)[0]
    for content in (file(Image.fromarray(raw)), npy(raw), file(Image.fromarray(raw), "webp", lossless=True)):
        (image,) = read("image", [content], GREY)
        np.testing.assert_allclose(image / 127.5 - 1, expected, atol=1e-6)


def test_a_larger_picture_is_scaled_down_until_it_fits_with_its_proportions() -> None:
    white = Image.new("L", (64, 32), "white")
    (image,) = read("image", [file(white)], GREY)
    assert (image[0, 2:6] == 255).all()
    assert (image[0, :2] == 0).all()
    assert (image[0, 6:] == 0).all()


def test_colours_and_transparency_are_those_that_a_viewer_shows_on_white() -> None:
    half = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert (read("image", [file(half)], COLOUR) == 255).all()
    (red,) = read("image", [file(Image.new("RGB", (8, 8), (255, 0, 0)))], COLOUR)
    assert [int(channel.mean()) for channel in red] == [255, 0, 0]
    (grey,) = read("image", [file(Image.new("RGB", (8, 8), (255, 0, 0)))], GREY)
    assert int(grey.mean()) == 76  # 0.299 of red


def test_a_picture_is_turned_as_its_exif_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned to the right
    left = Image.fromarray(np.repeat(np.array([[255, 0]], np.uint8).repeat(4, 1), 8, 0))
    (image,) = read("image", [file(left, "jpeg", exif=exif, quality=95)], GREY)
    assert image[0, :3].mean() > 200 > 50 > image[0, 5:].mean()


def test_answers_of_generate_are_the_images_that_they_show() -> None:
    made = np.random.default_rng(1).uniform(-1, 1, (3, *GREY)).astype(np.float32)
    (picture,) = read("image", [encode(made[:1], "png")], GREY)
    array = read("image", [encode(made, "npy")], GREY)
    assert array.shape == (3, *GREY)
    np.testing.assert_array_equal(array[0], picture)


@given(
    shape=st.lists(st.integers(0, 9), max_size=5).map(tuple), dtype=st.sampled_from(["u1", "<f4", "<f8", "O", ">i2"])
)
def test_an_array_is_taken_or_refused_by_its_shape_and_type(shape: tuple[int, ...], dtype: str) -> None:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.zeros(shape, dtype), allow_pickle=True)
    full = {2: (1, 1, *shape), 3: (*shape[:1], 1, *shape[1:]), 4: shape}.get(len(shape), (0, 0, 0, 0))
    fits = dtype in ("u1", "<f4") and full[0] >= 1 and full[1] == 1 and 1 <= full[2] <= 8 and 1 <= full[3] <= 8
    if fits:
        assert read("image", [stream.getvalue()], GREY).shape == (full[0], *GREY)
    else:
        refused(stream.getvalue())


def test_too_many_images_are_refused() -> None:
    assert len(read("image", [npy(pixels(MAX_IMAGES, 8, 8))], GREY)) == MAX_IMAGES
    refused(npy(pixels(MAX_IMAGES + 1, 8, 8)))
    one = npy(pixels(8, 8))
    with pytest.raises(InvalidRequest):
        read("image", [one] * (MAX_IMAGES + 1), GREY)


def header(text: str) -> bytes:
    line = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line)) + line


def bomb(width: int, height: int) -> bytes:
    """A PNG that says it is so large, and is a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


HOSTILE = {
    "nothing": b"",
    "text": b"hello",
    "an array's beginning": b"\x93NUMPY",
    "a version of the future": b"\x93NUMPY\x09\x00" + b" " * 100,
    "an array larger than any memory": header("{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999, 8, 8)}"),
    "a negative shape": header("{'descr': '|u1', 'fortran_order': False, 'shape': (-1, -8)}") + b"12345678",
    "a header of code": header("{'descr': __import__('os').system('true'), 'fortran_order': False, 'shape': ()}"),
    "a deep header": header("(" * 100),
    "objects": header("{'descr': '|O', 'fortran_order': False, 'shape': (1, 1)}") + b"cos\nsystem\n(S'true'\ntR.",
    "not a number": npy(np.full((8, 8), np.nan, np.float32)),
    "beyond an image": npy(np.full((8, 8), 1.5, np.float32)),
    "a bomb": bomb(2**15, 2**15),
    "a larger bomb": bomb(2**30, 2**30),
    "a line": bomb(MAX_PIXELS + 1, 1),
    "a picture cut off": file(Image.fromarray(pixels(8, 8)))[:60],
    "another format": file(Image.fromarray(pixels(8, 8)), "bmp"),
    "16 bits": file(Image.fromarray(np.zeros((8, 8), np.uint16))),
    "scans without end": file(Image.fromarray(pixels(64, 64)), "jpeg") + b"\xff\xda" * MAX_SCANS,
    "not base64": "%%%",
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_image_is_refused_by_name(content: bytes | str) -> None:
    refused(content)


def test_a_model_of_two_channels_takes_arrays_alone() -> None:
    assert read("image", [npy(pixels(1, 2, 8, 8))], (2, 8, 8)).shape == (1, 2, 8, 8)
    refused(file(Image.fromarray(pixels(8, 8))), (2, 8, 8))
