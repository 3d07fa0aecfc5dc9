"""Noise as a pure function: the noise of an image at a step depends only on the seed, its index and the step."""

import threading

import numpy as np
from numpy.typing import NDArray

INITIAL = 0  # the stream of x_T; step k of a plan draws from stream k + 1
UPDATE, Z = 0, 1  # uses of a stream: the update's noise (and x_T), or the network's z
TERM, START = 2, 3  # the noise of a term of a bound, or where the terms begin
GOLDEN = 0.6180339887498949  # the fraction of the golden ratio: its multiples are spread evenly over [0, 1)


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
    return _generator(seed, index, stream, use).standard_normal(shape, dtype=np.float32)


def start(seed: int, index: int) -> float:
    """Uniform in [0, 1), and evenly spread over a seed's indices: where the terms of an image's bound begin."""
    return (_generator(seed, 0, INITIAL, START).random() + index * GOLDEN) % 1.0


def _generator(seed: int, index: int, stream: int, use: int) -> np.random.Generator:
    """This thread's, set to the beginning of a stream."""
    key, counter = np.array([seed, index], np.uint64), np.array([0, 0, use, stream], np.uint64)
    # The whole state is set, so earlier draws have no effect.
    _own.bits.state = {**_own.unused, "state": {"key": key, "counter": counter}}
    return _own.generator
