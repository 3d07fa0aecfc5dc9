import hashlib
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine import noise

GOLDEN = "44dfbc29d8ca5f6d77f7d7a8971521b4dc7f9515644c776fe959053b001711f4"


def test_the_numbers_are_these_for_ever() -> None:
    # A change of NumPy, or of ours, that alters these bytes alters every image that was ever served.
    drawn = noise.normal(seed=7, index=3, stream=5, shape=(1, 32, 32))
    assert drawn.dtype == np.float32
    assert hashlib.sha256(drawn.tobytes()).hexdigest() == GOLDEN


def test_each_seed_index_stream_and_use_has_numbers_of_its_own() -> None:
    keys = product((0, 1, 2**64 - 1), (0, 1, 63), (0, 1, 1000), (noise.UPDATE, noise.Z))
    drawn = [noise.normal(seed, index, stream, (8,), use).tobytes() for seed, index, stream, use in keys]
    assert len(set(drawn)) == len(drawn) == 54


def test_it_is_philox_with_the_key_seed_and_index_and_the_stream_as_counter() -> None:
    bits = np.random.Philox(key=11 + (4 << 64), counter=9 << 192)
    expected = np.random.Generator(bits).standard_normal((2, 3), dtype=np.float32)
    np.testing.assert_array_equal(noise.normal(seed=11, index=4, stream=9, shape=(2, 3)), expected)


def test_a_stream_is_standard_normal() -> None:
    drawn = noise.normal(0, 0, 0, (200_000,)).astype(np.float64)
    assert drawn.mean() == pytest.approx(0, abs=0.01)
    assert drawn.std() == pytest.approx(1, abs=0.01)
    assert (np.abs(drawn) > 1.959964).mean() == pytest.approx(0.05, abs=0.003)


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 63), st.integers(0, 1000), st.integers(1, 9))))
def test_earlier_draws_and_the_thread_make_no_difference(keys: list[tuple[int, int, int, int]]) -> None:
    def draw(seed: int, index: int, stream: int, size: int) -> bytes:
        return noise.normal(seed, index, stream, (size,)).tobytes()

    with ThreadPoolExecutor(2) as pool:
        assert [draw(*key) for key in keys] == list(pool.map(lambda key: draw(*key), reversed(keys)))[::-1]
