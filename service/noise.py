"""Noise as a function: what image `index` of a request draws for step `step` depends on the three numbers alone."""

import numpy as np
from numpy.typing import NDArray

INITIAL = 0  # the stream of x_T; step k of a plan draws from stream k + 1


def normal(seed: int, index: int, stream: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Standard normal noise, float32 of `shape`.

    Philox (Salmon et al. 2011) is counter-based: key = (seed, index), and the stream is the counter's highest word,
    so that two streams of an image are 2^192 blocks apart.
    """
    bits = np.random.Philox(
        key=np.array([seed, index], dtype=np.uint64), counter=np.array([0, 0, 0, stream], dtype=np.uint64)
    )
    return np.random.Generator(bits).standard_normal(shape, dtype=np.float32)
