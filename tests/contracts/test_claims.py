"""What the papers claim, on the shipped models: DDIM's of eta = 0 (Song et al. 2020, arXiv 2010.02502, section 5), and
DDGAN's of its latent z (Xiao et al. 2022, arXiv 2112.07804, section 5.2)."""

from itertools import pairwise

import numpy as np
import pytest

from bundle.loading import Bundle, load
from service.engine import noise
from service.engine.runtime import Array
from service.runtimes.cpu import OrtRuntime
from tests.conftest import REPOSITORY, SHIPPED, step_arrays

IMAGES = 12


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load(SHIPPED)


def start(bundle: Bundle, seed: int) -> Array:
    """x_T of IMAGES images."""
    draws = [noise.normal(seed, index, noise.INITIAL, bundle.manifest.state_shape) for index in range(IMAGES)]
    return np.stack(draws)


def run(bundle: Bundle, x: Array, steps: int) -> Array:
    """The images that DDIM without noise makes of x_T, all of class 3."""
    runtime, labels = OrtRuntime(bundle, threads=2), np.full(len(x), 3)
    x0 = np.zeros_like(x)
    for row in bundle.coefficients(steps, "ddim", (("eta", 0.0),)):
        k = np.tile(row, (len(x), 1))
        inputs = {"x": x, "t": k[:, 0], "y": labels, "noise": np.zeros_like(x), "x0_prev": x0, "coefficients": k[:, 1:]}
        x, x0 = step_arrays(runtime, inputs)
    return x


def correlation(a: Array, b: Array) -> float:
    """Of the pixels of two images."""
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def test_from_one_start_other_numbers_of_steps_give_the_same_high_level_image(bundle: Bundle) -> None:
    x = start(bundle, seed=1)
    few, many = run(bundle, x, 10), run(bundle, x, 50)
    same = [correlation(a, b) for a, b in zip(few, many, strict=True)]
    other = [correlation(a, b) for a, b in zip(few, np.roll(many, 1, axis=0), strict=True)]  # of the same class
    assert np.median(same) > 0.9
    assert np.median(same) > np.median(other) + 0.3


def test_interpolating_the_start_interpolates_the_images(bundle: Bundle) -> None:
    a, b = start(bundle, seed=2)[:2]
    angle = np.arccos((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))
    shares = np.linspace(0, 1, 97)
    weights = [(np.sin((1 - share) * angle), np.sin(share * angle)) for share in shares]
    path = np.stack([(u * a + v * b) / np.sin(angle) for u, v in weights]).astype(np.float32)
    images = run(bundle, path, 20)

    def largest_jump(images: Array) -> float:
        return max(float(np.linalg.norm(after - before)) for before, after in pairwise(images))

    # Nowhere one image turns into the other at once: the finer the path, the smaller the steps …
    assert largest_jump(images) < np.linalg.norm(images[-1] - images[0]) / 2
    assert largest_jump(images) < 0.8 * largest_jump(images[::4])
    to_first = [correlation(image, images[0]) for image in images]
    to_last = [correlation(image, images[-1]) for image in images]
    assert to_first[48] > to_first[-1]  # … and the middle is between them
    assert to_last[48] > to_last[0]


def test_from_one_x_t_each_z_makes_another_clean_image() -> None:
    ddgan = load(REPOSITORY / "bundles" / "ddgan")
    first = ddgan.coefficients(4, "posterior", ())[0]
    x = np.repeat(start(ddgan, seed=3)[:1], IMAGES, axis=0)
    k = np.tile(first, (IMAGES, 1))
    z = np.stack([noise.normal(3, index, 1, (ddgan.manifest.z_dim,), noise.Z) for index in range(IMAGES)])
    runtime, nothing = OrtRuntime(ddgan, threads=2), np.zeros_like(x)

    def clean(z: Array) -> Array:
        """x0 of the first step, from pure noise, all of class 3."""
        inputs = {"x": x, "t": k[:, 0], "noise": nothing, "x0_prev": nothing, "coefficients": k[:, 1:], "z": z}
        return step_arrays(runtime, {**inputs, "y": np.full(IMAGES, 3)})[1]

    assert clean(z).std(axis=0).max() > 0.01  # little: beginning with a DDIM, it takes its chances from x_t more than z
    assert clean(np.repeat(z[:1], IMAGES, axis=0)).std(axis=0).max() < 1e-4
