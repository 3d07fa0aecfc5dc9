"""Noise as a pure function: the noise of an image at a step depends only on the seed, its index and the step."""

import threading

import numpy as np
from numpy.typing import NDArray

INITIAL = 0  # the stream of x_T; step k of a plan draws from stream k + 1
UPDATE, Z = 0, 1  # uses of a stream: the update's noise (and x_T), or the network's z


class _Own(threading.local):
    """A generator for each thread: creating one takes longer than drawing the noise."""

    def __init__(self) -> None:
        self.bits = np.random.Philox(0)
        self.generator = np.random.Generator(self.bits)
        self.unused = self.bits.state


_own = _Own()


def normal(seed: int, index: int, stream: int, shape: tuple[int, ...], use: int = UPDATE) -> NDArray[np.float32]:
    """Standard normal noise, float32 of `shape`.

    Philox (Salmon et al. 2011) is counter-based. The key is (seed, index); the stream and its use are the counter's
    high words. So two streams of an image are at least 2^128 blocks apart.
    """
    key, counter = np.array([seed, index], np.uint64), np.array([0, 0, use, stream], np.uint64)
    # The whole state is set, so earlier draws have no effect.
    _own.bits.state = {**_own.unused, "state": {"key": key, "counter": counter}}
    return _own.generator.standard_normal(shape, dtype=np.float32)
