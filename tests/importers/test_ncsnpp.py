"""The FIR filter that stands for a CUDA extension, beside SciPy's."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import upfirdn

from importers.networks.ncsnpp_blocks import Fir

KERNELS = st.lists(st.floats(0.1, 4), min_size=2, max_size=7)


def both_axes(kernel: np.ndarray, x: np.ndarray, up: int, down: int) -> np.ndarray:
    """SciPy's full convolution along the two last axes."""
    return upfirdn(kernel, upfirdn(kernel, x, up, down, axis=-1), up, down, axis=-2)


@given(kernel=KERNELS, half=st.integers(2, 5))
@settings(max_examples=50, deadline=None)
def test_halving_is_every_other_pixel_of_the_filtered_picture(kernel: list[float], half: int) -> None:
    """StyleGAN2's `downsample_2d`: (K − 1) // 2 zeros before the picture."""
    x = np.random.default_rng(0).normal(size=(2, 3, 2 * half, 2 * half))
    taps = np.array(kernel) / np.sum(kernel)
    first = len(kernel) - 1 - (len(kernel) - 1) // 2  # of the full convolution
    expected = both_axes(taps, x, 1, 1)[..., first::2, first::2][..., :half, :half]
    np.testing.assert_allclose(Fir(kernel).double().down(torch.from_numpy(x)), expected, atol=1e-6)


@given(kernel=KERNELS, size=st.integers(2, 5))
@settings(max_examples=50, deadline=None)
def test_doubling_filters_the_picture_with_zeros_between_its_pixels(kernel: list[float], size: int) -> None:
    """StyleGAN2's `upsample_2d`: twice the gain on each axis, (K − 1) // 2 + 1 zeros before the picture."""
    x = np.random.default_rng(0).normal(size=(2, 3, size, size))
    first = len(kernel) - 2 - (len(kernel) - 1) // 2
    doubled = both_axes(2 * np.array(kernel) / np.sum(kernel), x, 2, 1)
    doubled = np.pad(doubled, [(0, 0), (0, 0), (0, 1), (0, 1)])  # SciPy leaves out the zeros behind the last pixel
    expected = doubled[..., first:, first:][..., : 2 * size, : 2 * size]
    np.testing.assert_allclose(Fir(kernel).double().up(torch.from_numpy(x)), expected, atol=1e-6)


def test_a_constant_picture_stays_so_inside() -> None:
    fir = Fir([1, 3, 3, 1])
    x = torch.ones(1, 2, 8, 8)
    torch.testing.assert_close(fir.up(x)[:, :, 2:-2, 2:-2], torch.ones(1, 2, 12, 12))
    torch.testing.assert_close(fir.down(x)[:, :, 1:-1, 1:-1], torch.ones(1, 2, 2, 2))


@pytest.mark.parametrize("size", [4, 6])
def test_without_a_kernel_pixels_are_averaged_and_repeated(size: int) -> None:
    x = torch.arange(size * size, dtype=torch.float32).view(1, 1, size, size)
    fir = Fir([])
    torch.testing.assert_close(fir.down(fir.up(x)), x)
