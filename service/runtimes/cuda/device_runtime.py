"""The runtime of a GPU: states stay on the device, a step is one launch, and the host prepares the next meanwhile.

    host         batch.inputs() of step k+1          | launch k+1, then read whether the rows of step k are finite
    copies       ……… upload k+1 (labels, coefficients, noise) while step k computes ………
    compute      step k: gather, network, scatter    | step k+1

`step` returns places before the device has computed the step, and the engine can choose the next batch. `decode` waits.
The constructor allocates all memory and captures the CUDA graph of each batch size.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from bundle.gpu_manifest import MAGNITUDE
from models.step import Step
from service.engine.runtime import Array, Mixture, State, States, StepInputs, unguided
from service.runtimes.cuda.arena import Arena, Field, Views
from service.runtimes.cuda.driver import Address, Bytes, CudaGraph, Driver, Network
from service.runtimes.cuda.state_pool import DISCARD, NUMBER, ZERO, DeviceState, DeviceStates, Pool

COEFFICIENTS = Step._fields.index("noise_std")  # of most engines, without t; those of some models have more columns
OPTIONAL = (Field("y", np.int64), Field("pair", np.int64), Field("weights", np.float32, (2,)))  # for classes, and pairs
TERMS = 3  # of a mixture: the places of its result and of its terms, int32, and their weights, float32
PLACES = ("x_at", "x0_prev_at", "x_new_at", "x0_at")  # of each row, int32: where it is read and written


class Shape(NamedTuple):
    """The shapes of a model's rows."""

    state: tuple[int, int, int]
    image: tuple[int, int, int]
    z_dim: int
    columns: int = COEFFICIENTS
    optional: frozenset[str] = frozenset({"y"})  # which inputs of OPTIONAL there are

    @property
    def fields(self) -> list[Field]:
        """The inputs of a step that the host uploads."""
        z = [Field("z", np.float32, (self.z_dim,))] if self.z_dim else []
        return [
            *(Field(name, np.int32) for name in PLACES),
            Field("t", np.float32),
            Field("coefficients", np.float32, (self.columns,)),
            Field("noise", np.float32, self.state),
            *z,
            *(field for field in OPTIONAL if field.name in self.optional),
        ]


class StepSlot:
    """The host's memory for one step. There are two, used in turns: step k+1 is prepared while step k computes."""

    def __init__(self, driver: Driver, arenas: dict[int, Arena], row_bytes: int) -> None:
        most = max(arenas)
        self.inputs = driver.pin(max(arena.size for arena in arenas.values()))
        self.staging = driver.allocate(len(self.inputs))
        self.views = {bucket: arena.views(self.inputs) for bucket, arena in arenas.items()}
        self.fresh = driver.pin(2 * most * row_bytes)  # rows from the host, as x of images that begin
        self.magnitudes = driver.pin(most * NUMBER)
        self.mixed, self.weights = driver.pin(most * (1 + TERMS) * NUMBER), driver.pin(most * TERMS * NUMBER)
        self.uploaded, self.done = driver.event(), driver.event()
        self.results: list[tuple[DeviceState, DeviceState]] = []  # x and x0 of rows whose magnitudes are unknown yet


class DeviceRuntime:
    """A `Runtime` for one worker. A failure on the device raises DriverError in a later call."""

    def __init__(
        self,
        driver: Driver,
        step: Network,
        decoder: Network | None,
        shape: Shape,
        *,
        images: int,
        buckets: Sequence[int],
        graphs: bool = True,
        encode: Callable[[Array], Array] = lambda image: image,
    ) -> None:
        """Allocates memory for the states of `images` images, and for batches of `buckets`, which both networks have.

        `encode` is the runtime's own verb; it runs on the host, once for each picture that a request begins at.
        Without `graphs` each launch is made alone, for comparison.
        """
        self._driver, self._step, self._decoder, self._shape = driver, step, decoder, shape
        self.buckets, self._captures, self.encode = buckets, graphs, encode
        most = max(buckets)
        # Beside the images' x and last x0, three of them at most, places for: the results of a batch while its inputs
        # are held, the results of the batch before until their magnitudes are known, mixtures, and rows from the host.
        self._pool = Pool(driver, shape.state, (1 + TERMS) * images + 7 * most)
        self._arenas = {bucket: Arena(shape.fields, bucket) for bucket in buckets}
        row_bytes = self._pool.row_bytes
        self._slots = [StepSlot(driver, self._arenas, row_bytes) for _ in range(2)]
        self._next_slot = 0
        self._before: StepSlot | None = None  # whose step was launched last
        self._compute, self._copies = driver.stream(), driver.stream()
        self._inputs = driver.allocate(len(self._slots[0].inputs))
        self._x, self._x0_prev, self._x_new, self._x0 = (driver.allocate(most * row_bytes) for _ in range(4))
        self._magnitudes = driver.allocate(most * NUMBER)
        self._mixed, self._weights = (driver.allocate(most * size * NUMBER) for size in (1 + TERMS, TERMS))
        self._image_bytes = NUMBER * int(np.prod(shape.image))
        self._selected = driver.pin(most * NUMBER)  # the places of the states to decode
        self._selected_at = driver.allocate(most * NUMBER)
        self._decode_inputs = driver.allocate(most * row_bytes)
        self._images = driver.allocate(most * self._image_bytes) if decoder else self._decode_inputs
        self._pixels = driver.pin(most * max(self._image_bytes, row_bytes))  # images, or states
        self._decoded = driver.event()
        self._step_graphs = {bucket: self._prepare_step(bucket) for bucket in buckets}
        self._decode_graphs = {bucket: self._prepare_decode(bucket) for bucket in buckets}

    def step(self, inputs: StepInputs) -> tuple[DeviceStates, DeviceStates]:
        """x_new and x0. Each row's x and x0_prev are on the host, or on the device as results of an earlier step.

        Raises FloatingPointError if the results of a row's own earlier step are not finite.
        """
        rows = len(inputs.x)
        bucket, driver = self._bucket(rows), self._driver
        slot = self._slots[self._next_slot]  # the other one may still be in use
        x_new, x0 = self._take(rows), self._take(rows)
        history, terms = self._mix(inputs.x0_prev, slot)
        sources = self._on_device([*inputs.x, *history], slot.fresh)
        views = slot.views[bucket]
        write_places(views, [sources[:rows], sources[rows:], x_new, x0])
        self._write_values(views, inputs, bucket)
        size = self._arenas[bucket].size
        driver.upload(slot.staging, slot.inputs[:size], self._copies)
        driver.record(slot.uploaded, self._copies)
        driver.wait(self._compute, slot.uploaded)
        driver.copy(self._inputs, slot.staging, size, self._compute)
        self._launch(self._step_graphs, bucket, self._enqueue_step)
        driver.download(slot.magnitudes[: rows * NUMBER], self._magnitudes, self._compute)
        driver.record(slot.done, self._compute)
        slot.results = list(zip(x_new, x0, strict=True))
        before, self._before = self._before, slot
        self._next_slot = 1 - self._next_slot
        self._collect_finite(before)
        check_finite([*sources, *terms])
        return DeviceStates(x_new, self._shape.state), DeviceStates(x0, self._shape.state)

    def decode(self, states: States) -> Array:
        """The images of states on the device, or on the host. Raises FloatingPointError if one is not finite."""
        return self._download(states, self._decode_graphs, self._enqueue_decode, self._images, self._shape.image)

    def fetch(self, states: States) -> Array:
        """Raises FloatingPointError if one is not finite."""
        no_graph: dict[int, CudaGraph | None] = dict.fromkeys(self.buckets)
        return self._download(states, no_graph, self._enqueue_gather, self._decode_inputs, self._shape.state)

    def _download(
        self,
        states: States,
        graphs: dict[int, CudaGraph | None],
        enqueue: Callable[[int], None],
        source: Address,
        shape: tuple[int, int, int],
    ) -> Array:
        """What `enqueue` makes of these states at the address `source`, (n, *shape)."""
        rows, driver = states.shape[0], self._driver
        bucket = self._bucket(rows)
        self._collect_finite(self._before)
        on_device = self._on_device((states[row] for row in range(rows)), self._slots[0].fresh)  # no step is running
        check_finite(on_device)
        self._selected.view(np.int32)[:rows] = [place(state) for state in on_device]
        driver.upload(self._selected_at, self._selected, self._compute)
        self._launch(graphs, bucket, enqueue)
        pixels = self._pixels[: rows * NUMBER * math.prod(shape)]
        driver.download(pixels, source, self._compute)
        driver.record(self._decoded, self._compute)
        driver.synchronize(self._decoded)
        return pixels.view(np.float32).reshape(rows, *shape).copy()

    def _write_values(self, views: Views, inputs: StepInputs, bucket: int) -> None:
        """Writes what is no state. A padding row is its own pair, as one without guidance is."""
        rows = len(inputs.x)
        if "pair" in views:
            for name, alone in unguided(bucket).items():
                views[name][:] = alone
        for name in views.keys() - set(PLACES):
            values = getattr(inputs, name)
            if values is not None:
                views[name][:rows] = values[:, : self._shape.columns] if name == "coefficients" else values

    def _bucket(self, rows: int) -> int:
        if not 1 <= rows <= self.buckets[-1]:
            raise ValueError(f"{rows} rows: a batch has 1 to {self.buckets[-1]}")
        return self.buckets[bisect_left(self.buckets, rows)]

    def _take(self, rows: int) -> list[DeviceState]:
        return [self._pool.take() for _ in range(rows)]

    def _on_device(self, rows: Iterable[DeviceState | Array], memory: Bytes) -> list[DeviceState | None]:
        """The rows on the device, those of the host uploaded through `memory`; None for a row that is all 0."""
        on_device: list[DeviceState | None] = []
        used = 0
        for row in rows:
            if isinstance(row, DeviceState) or not row.any():
                on_device.append(row if isinstance(row, DeviceState) else None)
                continue
            piece = memory[used : used + self._pool.row_bytes]
            used += len(piece)
            piece.view(np.float32)[:] = row.ravel()
            state = self._pool.take()
            self._driver.upload(self._pool.at(state), piece, self._compute)
            on_device.append(state)
        return on_device

    def _mix(
        self, rows: Sequence[State | Mixture] | Array, slot: StepSlot
    ) -> tuple[list[DeviceState | Array], list[DeviceState]]:
        """The rows, each mixture at a place where the device will have computed it; and the mixtures' terms."""
        history, count = [*rows], 0
        terms: list[DeviceState] = []
        mixed = slot.mixed.view(np.int32).reshape(-1, 1 + TERMS)
        weights = slot.weights.view(np.float32).reshape(-1, TERMS)
        for row, mixture in enumerate(history):
            if isinstance(mixture, Mixture):
                history[row] = self._pool.take()
                places = [place(history[row]), *map(place, mixture.states)]
                mixed[count], weights[count] = ZERO, 0.0
                mixed[count, : len(places)], weights[count, : len(mixture.weights)] = places, mixture.weights
                terms += mixture.states
                count += 1
        if count:
            self._driver.upload(self._mixed, slot.mixed, self._compute)
            self._driver.upload(self._weights, slot.weights, self._compute)
            self._driver.mix(self._pool.address, self._mixed, self._weights, count, self._pool.floats, self._compute)
        return history, terms

    def _collect_finite(self, slot: StepSlot | None) -> None:
        """Waits for the slot's step, and marks the results that are not finite."""
        if slot is None or not slot.results:
            return
        results, slot.results = slot.results, []
        self._driver.synchronize(slot.done)
        magnitudes = slot.magnitudes.view(np.float32)[: len(results)]
        for row in np.flatnonzero(~np.isfinite(magnitudes)):
            for state in results[row]:
                state.finite = False

    def _prepare_step(self, bucket: int) -> CudaGraph | None:
        arena, slot = self._arenas[bucket], self._slots[0]
        addresses = {name: self._inputs + offset for name, offset in arena.offsets.items() if name not in PLACES}
        own = {"x": self._x, "x0_prev": self._x0_prev, "x_new": self._x_new, "x0": self._x0}
        self._step.bind(bucket, {**addresses, **own, MAGNITUDE: self._magnitudes}, self._compute)
        write_places(slot.views[bucket], [[]] * len(PLACES))
        self._driver.upload(self._inputs, slot.inputs[: arena.size], self._compute)
        return self._captured(self._enqueue_step, bucket, self._step.capturable)

    def _prepare_decode(self, bucket: int) -> CudaGraph | None:
        if self._decoder is not None:
            self._decoder.bind(bucket, {"x": self._decode_inputs, "images": self._images}, self._compute)
        return self._captured(self._enqueue_decode, bucket, self._decoder is None or self._decoder.capturable)

    def _captured(self, enqueue: Callable[[int], None], bucket: int, capturable: bool) -> CudaGraph | None:
        """The captured graph of `enqueue`. It runs once before, so that the graph does not have one-time set-up."""
        enqueue(bucket)
        self._driver.record(self._decoded, self._compute)
        self._driver.synchronize(self._decoded)
        if not (capturable and self._captures):
            return None
        self._driver.begin_capture(self._compute)
        enqueue(bucket)
        return self._driver.end_capture(self._compute)

    def _launch(self, graphs: dict[int, CudaGraph | None], bucket: int, enqueue: Callable[[int], None]) -> None:
        graph = graphs[bucket]
        if graph is None:
            enqueue(bucket)
        else:
            self._driver.launch(graph, self._compute)

    def _enqueue_step(self, bucket: int) -> None:
        driver, pool, stream = self._driver, self._pool, self._compute
        at = {name: self._inputs + self._arenas[bucket].offsets[name] for name in PLACES}
        driver.gather(self._x, pool.address, at["x_at"], bucket, pool.floats, stream)
        driver.gather(self._x0_prev, pool.address, at["x0_prev_at"], bucket, pool.floats, stream)
        self._step.enqueue(bucket, stream)
        driver.scatter(pool.address, self._x_new, at["x_new_at"], bucket, pool.floats, stream)
        driver.scatter(pool.address, self._x0, at["x0_at"], bucket, pool.floats, stream)

    def _enqueue_gather(self, bucket: int) -> None:
        pool = self._pool
        self._driver.gather(self._decode_inputs, pool.address, self._selected_at, bucket, pool.floats, self._compute)

    def _enqueue_decode(self, bucket: int) -> None:
        self._enqueue_gather(bucket)
        if self._decoder is not None:
            self._decoder.enqueue(bucket, self._compute)


def place(state: DeviceState | None) -> int:
    """The state's place in the pool; None is the place that is all 0."""
    return ZERO if state is None else state.place


def write_places(views: Views, places: Sequence[Sequence[DeviceState | None]]) -> None:
    """Writes where each row is read and written, `places` in the order of PLACES; padding reads 0 and is discarded."""
    for name, states, padding in zip(PLACES, places, (ZERO, ZERO, DISCARD, DISCARD), strict=True):
        views[name][: len(states)] = [place(state) for state in states]
        views[name][len(states) :] = padding


def check_finite(states: Iterable[DeviceState | None]) -> None:
    """Raises FloatingPointError if one is not finite."""
    if not all(state is None or state.finite for state in states):
        raise FloatingPointError("the step gives numbers that are not finite")
