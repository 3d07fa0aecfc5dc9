"""Where the images of a job begin, if not at noise drawn from its seed: at a picture, or at a state of the caller's."""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.engine.runtime import Array, Runtime

Mask = NDArray[np.bool_]


@dataclass(eq=False, slots=True)
class Picture:
    """A picture that a job's images begin at; with a mask, the rest of it stays as it is."""

    pixels: NDArray[np.uint8]  # (C, H, W)
    mask: Mask | None = None  # (H, W): true where it is painted anew
    _state: Array | None = field(default=None, init=False)

    @property
    def image(self) -> Array:
        """(C, H, W) in [−1, 1]."""
        return (self.pixels / 127.5 - 1).astype(np.float32)

    def state(self, runtime: Runtime) -> Array:
        """The picture as the steps have images; the first worker to need it computes it."""
        if self._state is None:
            self._state = runtime.encode(self.image)
        return self._state

    def keep_state(self, x: Array, known: Array) -> Array:
        """x where the mask is true, and `known` elsewhere, both of a state's shape (C, H, W).

        A position of a latent is painted anew if any of its pixels is.
        """
        assert self.mask is not None
        height, width = x.shape[1:]
        rows, columns = self.mask.shape
        mask = self.mask.reshape(height, rows // height, width, columns // width).any(axis=(1, 3))
        return np.where(mask, x, known)

    def keep_pixels(self, image: Array) -> Array:
        """The finished image with the picture's own pixels where the mask is not true."""
        return image if self.mask is None else np.where(self.mask, image, self.image)


def slerp(a: Array, b: Array, share: float) -> Array:
    """The spherical mean of two arrays (Shoemake 1985): a for share 0, b for share 1, exactly; else float32."""
    if share in (0, 1):
        return b if share else a
    first, second = a.astype(np.float64), b.astype(np.float64)
    lengths = math.sqrt((first * first).sum() * (second * second).sum())
    angle = math.acos(min(max((first * second).sum() / lengths, -1.0), 1.0)) if lengths else 0.0
    if math.sin(angle) < 1e-6:  # the same direction, or opposite ones, which have no one way between them
        weights = 1 - share, share
    else:
        weights = math.sin((1 - share) * angle) / math.sin(angle), math.sin(share * angle) / math.sin(angle)
    return (weights[0] * first + weights[1] * second).astype(np.float32)
