import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.requests.encoding import encode, grid, pixels
from service.requests.request import Format


@pytest.fixture
def images() -> NDArray[np.float32]:
    return np.random.default_rng(0).uniform(-1.2, 1.2, (5, 1, 6, 8)).astype(np.float32)


def test_pixels_are_rounded_to_the_nearest_level_and_clipped() -> None:
    values = np.array([-2, -1, -1 + 0.4 / 127.5, 0, 1 - 0.6 / 127.5, 1, 3], dtype=np.float32).reshape(1, 1, -1)
    assert pixels(values).ravel().tolist() == [0, 0, 0, 128, 254, 255, 255]


@pytest.mark.parametrize("format", ["png", "webp"])
def test_a_lossless_file_holds_the_pixels(images: NDArray[np.float32], format: Format) -> None:
    with Image.open(io.BytesIO(encode(images[:1], format))) as picture:
        assert picture.format == format.upper()
        np.testing.assert_array_equal(np.asarray(picture.convert("L")), pixels(images[0])[..., 0])


def test_a_jpeg_is_near_the_pixels() -> None:
    smooth = np.linspace(-1, 1, 64 * 64, dtype=np.float32).reshape(1, 1, 64, 64)
    with Image.open(io.BytesIO(encode(smooth, "jpeg"))) as picture:
        assert picture.format == "JPEG"
        assert np.abs(np.asarray(picture, dtype=int) - pixels(smooth[0])[..., 0]).max() < 8


def test_an_npy_file_holds_the_numbers_themselves(images: NDArray[np.float32]) -> None:
    read = np.load(io.BytesIO(encode(images, "npy")), allow_pickle=False)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, images)


def test_several_images_are_a_grid_row_by_row_near_a_square(images: NDArray[np.float32]) -> None:
    tiles = [pixels(image) for image in images]
    canvas = grid(tiles)
    assert canvas.shape == (2 * 6, 3 * 8)
    for i, tile in enumerate(tiles):
        top, left = i // 3 * 6, i % 3 * 8
        np.testing.assert_array_equal(canvas[top : top + 6, left : left + 8], tile[..., 0])
    assert not canvas[6:, 16:].any()  # the place of a sixth


def test_colour_stays_colour() -> None:
    image = np.zeros((1, 3, 4, 4), dtype=np.float32)
    image[0, 0] = 1
    with Image.open(io.BytesIO(encode(image, "png"))) as picture:
        assert picture.mode == "RGB"
        assert picture.getpixel((0, 0)) == (255, 128, 128)


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
@pytest.mark.parametrize(("channels", "shown"), [(2, 1), (3, 3), (4, 3), (16, 3)])
def test_a_picture_of_any_number_of_channels_is_grey_or_has_the_first_three(
    format: Format, channels: int, shown: int
) -> None:
    latents = np.random.default_rng(0).uniform(-1, 1, (2, channels, 4, 6)).astype(np.float32)
    assert encode(latents, format) == encode(latents[:, :shown], format)
    with Image.open(io.BytesIO(encode(latents, format))) as picture:
        assert picture.size == (12, 4)
        assert picture.mode == ("RGB" if shown == 3 or format == "webp" else "L")
    assert np.load(io.BytesIO(encode(latents, "npy")), allow_pickle=False).shape == latents.shape
