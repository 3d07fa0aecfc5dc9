"""The interface between the engine and a runtime, which computes steps: on the CPU, on a GPU, or in a test."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
State = Any  # a row's x or x0: an Array (C, H, W), or a handle of one that the runtime keeps on its device


@dataclass(frozen=True, slots=True)
class Mixture:
    """A weighted sum of a row's states: what a step that reads more than one earlier x0 has for x0_prev."""

    weights: Array  # a number for each of `states`
    states: Sequence[State]

    @property
    def shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self.states[0].shape
        return shape

    def on_host(self) -> Array:
        total: Array = self.weights[0] * self.states[0]
        for weight, state in zip(self.weights[1:], self.states[1:], strict=True):
            total += weight * state
        return total


class States(Protocol):
    """x or x0 of the rows of a batch: on the host, or handles of states that the runtime keeps on its device."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, C, H, W)."""
        ...

    def __getitem__(self, row: int) -> State: ...

    def select(self, rows: Sequence[int]) -> "States":
        """The states of these rows, in this order."""
        ...

    def is_finite(self) -> bool:
        """False if a number is known not to be finite; a device may only know when it decodes the states."""
        ...


@dataclass(frozen=True, slots=True)
class StepInputs:
    """The inputs of the step graph, a row an image: see `export.step_module.StepModule`."""

    x: Sequence[State] | Array  # n states of shape (C, H, W)
    t: Array  # (n,)
    y: NDArray[np.int64]  # (n,); the number of classes means "no class"
    noise: Array  # (n, C, H, W)
    x0_prev: Sequence[State | Mixture] | Array  # n states of shape (C, H, W)
    coefficients: Array  # (n, columns): `models.step.Step` without t; a graph takes the first of them that it knows
    z: Array | None = None  # (n, z_dim), where the network takes one
    pair: NDArray[np.int64] | None = None  # (n,): the other row of a guided image, or the row itself
    weights: Array | None = None  # (n, 2): of a row's own output and its pair's

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The graph's inputs by name; every state must be on the host."""
        arrays: dict[str, NDArray[Any]] = {
            "x": stack(self.x),
            "t": self.t,
            "y": self.y,
            "noise": self.noise,
            "x0_prev": stack(self.x0_prev),
            "coefficients": self.coefficients,
        }
        more = {"z": self.z, "pair": self.pair, "weights": self.weights}
        return {**arrays, **{name: array for name, array in more.items() if array is not None}}


class Runtime(Protocol):
    """One model, ready to run. All of the engine's workers call it at once."""

    def step(self, inputs: StepInputs) -> tuple[States, States]:
        """x_new and x0, each (n, C, H, W) float32. Rows do not depend on each other.

        A runtime that keeps the states may return before they are computed. It raises FloatingPointError, at the
        latest when they are decoded, if one is not finite.
        """
        ...

    def decode(self, states: States) -> Array:
        """The images (n, C, H, W) of these states: the states themselves where the steps end at the image."""
        ...

    def fetch(self, states: States) -> Array:
        """The states themselves (n, C, H, W), on the host."""
        ...

    def encode(self, image: Array) -> Array:
        """The state (C, H, W) of an image (C, H, W): the image itself where the steps end at it."""
        ...


class HostStates:
    """States in an array (n, C, H, W)."""

    __slots__ = ("array",)

    def __init__(self, array: Array) -> None:
        self.array = array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def __getitem__(self, row: int) -> Array:
        state: Array = self.array[row]
        return state

    def select(self, rows: Sequence[int]) -> "HostStates":
        return HostStates(self.array[rows])

    def is_finite(self) -> bool:
        # One product is faster than testing each number. It also overflows for large finite numbers, hence the second.
        return bool(np.isfinite(np.vdot(self.array, self.array)) or np.isfinite(self.array).all())


def stack(rows: Sequence[State | Mixture] | Array) -> Array:
    """Rows (C, H, W) on the host as one array (n, C, H, W)."""
    if isinstance(rows, np.ndarray):
        return rows
    stacked = np.empty((len(rows), *rows[0].shape), dtype=np.float32)
    for target, row in zip(stacked, rows, strict=True):  # np.stack takes three times as long
        target[...] = row.on_host() if isinstance(row, Mixture) else row
    return stacked


def unguided(rows: int) -> dict[str, NDArray[Any]]:
    """`pair` and `weights` of rows without guidance: each is its own pair, with the weights 1 and 0."""
    return {"pair": np.arange(rows, dtype=np.int64), "weights": np.tile(np.array([1, 0], dtype=np.float32), (rows, 1))}
