"""Runs plans over a bundle's graph, many images at once, with noise from a seed."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from bundle.loading import Bundle
from models.step import HISTORY, Plan, Step, with_history
from service.engine.runtime import Array, HostStates, Runtime, StepInputs

ROWS = 25  # of a batch

T = TypeVar("T")


class Trajectory(NamedTuple):
    """x before each step and at the end, and each step's x0, (n, C, H, W) each."""

    x: list[Array]
    x0: list[Array]


class Sampler:
    """Image i has the class i modulo their number, or "no class" where the model has none."""

    def __init__(self, bundle: Bundle, runtime: Runtime, threads: int) -> None:
        self.bundle, self._runtime = bundle, runtime
        self._pool = ThreadPoolExecutor(threads)

    def labels(self, count: int) -> NDArray[np.int64]:
        return np.arange(count) % max(len(self.bundle.manifest.classes), 1)

    def run(self, plan: Plan, seed: int, count: int, before: Trajectory | None = None) -> Trajectory:
        """The trajectory of `count` images; one that goes on from `before` has the steps that are missing there."""
        x, x0 = ([self._noise(seed, 0, count)], []) if before is None else ([*before.x], [*before.x0])
        for k in range(len(x0), len(plan)):
            x_new, x0_new = self._step(plan[k], x[-1], x0[: -len(HISTORY) - 1 : -1], seed, k)
            x.append(x_new)
            x0.append(x0_new)
        return Trajectory(x, x0)

    def final(self, plan: Plan, seed: int, count: int, advance: Callable[[], object] = lambda: None) -> Array:
        """The states at the end alone; `advance` is called after each step."""
        x, earlier = self._noise(seed, 0, count), list[Array]()
        for k, step in enumerate(plan):
            x, x0 = self._step(step, x, earlier, seed, k)
            earlier = [x0, *earlier][: len(HISTORY)]
            advance()
        return x

    def images(self, states: Array) -> Array:
        """(n, C, H, W), of these final states."""
        return np.concatenate(
            self.over_batches(lambda rows: self._runtime.decode(HostStates(states[rows])), len(states))
        )

    def over_batches(self, work: Callable[[slice], T], count: int) -> list[T]:
        """The results of `work` for each batch of `count` rows, computed side by side."""
        return list(self._pool.map(work, [slice(start, start + ROWS) for start in range(0, count, ROWS)]))

    def weighted(self, k: Step, x: Array, x0s: list[Array], seed: int, index: int) -> Array:
        """x after step `index` of a plan, from its x and all x0 up to its own: no network is needed."""
        own, *earlier = reversed(x0s)
        step, mixture = with_history(k, earlier)
        x_new = (
            step.x_from_x * x + step.x_from_x0 * own + mixture + step.noise_std * self._fresh(k, seed, index, len(x))
        )
        return np.asarray(x_new, dtype=np.float32)

    def _noise(self, seed: int, stream: int, count: int) -> Array:
        """Of x_T in stream 0, and of a plan's step k in stream k + 1."""
        generator = np.random.Generator(np.random.Philox(key=[seed, stream]))
        return generator.standard_normal((count, *self.bundle.manifest.state_shape), dtype=np.float32)

    def _fresh(self, k: Step, seed: int, index: int, count: int) -> Array:
        """The noise of a plan's step; zeros where it takes none."""
        shape = count, *self.bundle.manifest.state_shape
        return self._noise(seed, index + 1, count) if k.noise_std else np.zeros(shape, dtype=np.float32)

    def _step(self, k: Step, x: Array, earlier: list[Array], seed: int, index: int) -> tuple[Array, Array]:
        """x_new and x0; `earlier` are the x0 before it, the last first."""
        labels = self.labels(len(x))
        noise = self._fresh(k, seed, index, len(x))
        step, mixture = with_history(k, earlier)
        x0_prev = np.asarray(mixture, dtype=np.float32) if earlier else np.zeros_like(x)
        coefficients = np.array(step[1:], dtype=np.float32)

        def batch(rows: slice) -> tuple[Array, Array]:
            count = len(labels[rows])
            inputs: dict[str, NDArray[Any]] = {
                "x": x[rows],
                "t": np.full(count, k.t, dtype=np.float32),
                "y": labels[rows],
                "noise": noise[rows],
                "x0_prev": x0_prev[rows],
                "coefficients": np.tile(coefficients, (count, 1)),
            }
            x_new, x0 = self._runtime.step(StepInputs(**inputs))
            return self._runtime.fetch(x_new), self._runtime.fetch(x0)

        x_new, x0 = zip(*self.over_batches(batch, len(x)), strict=True)
        return np.concatenate(x_new), np.concatenate(x0)
