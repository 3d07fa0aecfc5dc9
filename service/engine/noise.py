"""Noise as a function: what image `index` of a request draws for step `step` depends on the three numbers alone."""

import threading

import numpy as np
from numpy.typing import NDArray

INITIAL = 0  # the stream of x_T; step k of a plan draws from stream k + 1
UPDATE, Z = 0, 1  # what a stream's numbers are for: the update's noise (and x_T), or the network's z


class _Own(threading.local):
    """A thread's generator: making one takes longer than what it draws."""

    def __init__(self) -> None:
        self.bits = np.random.Philox(0)
        self.generator = np.random.Generator(self.bits)
        self.unused = self.bits.state


_own = _Own()


def normal(seed: int, index: int, stream: int, shape: tuple[int, ...], use: int = UPDATE) -> NDArray[np.float32]:
    """Standard normal noise, float32 of `shape`.

    Philox (Salmon et al. 2011) is counter-based: key = (seed, index), and the stream and its use are the counter's
    high words, so that two of an image's streams are at least 2^128 blocks apart.
    """
    key, counter = np.array([seed, index], np.uint64), np.array([0, 0, use, stream], np.uint64)
    # All of the state: nothing is left of what was drawn before.
    _own.bits.state = {**_own.unused, "state": {"key": key, "counter": counter}}
    return _own.generator.standard_normal(shape, dtype=np.float32)
