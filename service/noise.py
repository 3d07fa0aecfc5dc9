"""Noise as a function: what image `index` of a request draws for step `step` depends on the three numbers alone."""

import numpy as np
from numpy.typing import NDArray

INITIAL = 0  # the stream of x_T; step k of a plan draws from stream k + 1
UPDATE, LATENT = 0, 1  # what the numbers of a stream are for: N·noise (and x_T), or the network's z


def normal(seed: int, index: int, stream: int, shape: tuple[int, ...], use: int = UPDATE) -> NDArray[np.float32]:
    """Standard normal noise, float32 of `shape`.

    Philox (Salmon et al. 2011) is counter-based: key = (seed, index), and the stream and its use are the counter's
    high words, so that two of an image's streams are at least 2^128 blocks apart.
    """
    bits = np.random.Philox(
        key=np.array([seed, index], dtype=np.uint64), counter=np.array([0, 0, use, stream], dtype=np.uint64)
    )
    return np.random.Generator(bits).standard_normal(shape, dtype=np.float32)
