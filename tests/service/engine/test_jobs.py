import numpy as np

from bundle.loading import Bundle
from service.engine import noise
from service.engine.jobs import Batch
from tests.service.engine.conftest import job


def test_a_batch_gathers_each_rows_own_state_line_label_and_noise(toy: Bundle) -> None:
    deterministic, noisy = job(toy, steps=4, n=2, class_label=1, seed=1), job(toy, steps=9, seed=5, eta=1.0)
    rows = [deterministic.images[1], noisy.images[0]]
    for image, step in zip(rows, (2, 7), strict=True):
        image.draw_initial()
        image.step = step
        image.x0 = np.full_like(image.x, step)
    inputs = Batch(rows).inputs()
    np.testing.assert_array_equal(inputs.x[0], noise.normal(1, 1, noise.INITIAL, toy.manifest.shape))
    np.testing.assert_array_equal(inputs.x[1], noise.normal(5, 0, noise.INITIAL, toy.manifest.shape))
    np.testing.assert_array_equal([state.mean() for state in inputs.x0_prev], [2, 7])
    np.testing.assert_array_equal(inputs.t, [deterministic.coefficients[2, 0], noisy.coefficients[7, 0]])
    np.testing.assert_array_equal(inputs.coefficients, [deterministic.coefficients[2, 1:], noisy.coefficients[7, 1:]])
    np.testing.assert_array_equal(inputs.y, [1, 3])  # 3 classes: label 3 is "no class"
    np.testing.assert_array_equal(inputs.noise[0], 0)  # eta = 0: its step multiplies the noise by 0
    np.testing.assert_array_equal(inputs.noise[1], noise.normal(5, 0, 8, toy.manifest.shape))
    assert inputs.z is None


def test_a_network_that_takes_z_gets_fresh_numbers_for_each_image_and_step(toy: Bundle) -> None:
    noisy = job(toy, n=2, seed=1)
    noisy.z_dim = 6
    first = Batch(noisy.images).inputs().z
    noisy.images[0].step = 1
    second = Batch(noisy.images).inputs().z
    assert first.shape == (2, 6)
    np.testing.assert_array_equal(first[1], second[1])
    np.testing.assert_array_equal(second[0], noise.normal(1, 0, 2, (6,), noise.Z))
    assert not np.array_equal(first[0], second[0])
