"""A fake GPU: a driver that checks its calls and executes them in NumPy, as late as it may, and a network for it.

It executes nothing of a stream before somebody waits for an event of it. So memory that the host overwrites too early,
or that one stream reads of another without waiting for it, changes the images.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from bundle.gpu_manifest import MAGNITUDE, Engines
from service.engine.runtime import States, StepInputs
from service.runtimes.cuda.device_runtime import Shape
from service.runtimes.cuda.driver import Address, Bytes, CudaGraph, DriverError, Event, Stream

BASE = 1 << 20  # the first address
Operation = Callable[[], None]
Arrays = Mapping[str, NDArray[Any]]
Step = Callable[[Arrays], tuple[Any, Any]]


@dataclass
class FakeDriver:
    """A `Driver`. `calls` has the name of every call."""

    memory: int = 1 << 30
    name: str = "a fake sm_00"
    architecture: str = "sm_00"
    calls: list[str] = field(default_factory=list)
    blocks: dict[Address, Bytes] = field(default_factory=dict)
    pinned: list[Bytes] = field(default_factory=list)
    queues: dict[Stream, list[Operation]] = field(default_factory=lambda: defaultdict(list))
    recorded: dict[Event, tuple[Stream, int]] = field(default_factory=dict)  # a stream, and its operations before it
    executed: dict[Stream, int] = field(default_factory=lambda: defaultdict(int))  # operations of each stream
    graphs: dict[CudaGraph, list[Operation]] = field(default_factory=dict)
    capturing: tuple[Stream, list[Operation]] | None = None
    fails_at: int | None = None  # the synchronisation, counted from now, that reports an error
    streams: int = 0
    events: int = 0

    # --- memory

    def allocate(self, size: int) -> Address:
        self.calls.append("allocate")
        assert size > 0
        assert self.capturing is None, "memory is taken within a capture"
        used = sum(len(block) for block in self.blocks.values())
        if used + size > self.memory:
            raise DriverError(f"cuMemAlloc({size}): CUDA_ERROR_OUT_OF_MEMORY")
        address = BASE + sum(len(block) + 512 - len(block) % 256 for block in self.blocks.values())
        self.blocks[address] = np.zeros(size, dtype=np.uint8)
        return address

    def pin(self, size: int) -> Bytes:
        self.calls.append("pin")
        memory = np.zeros(size, dtype=np.uint8)
        self.pinned.append(memory)
        return memory

    def at(self, address: Address, size: int) -> Bytes:
        """Device memory, which must lie within an allocation."""
        for start, block in self.blocks.items():
            if start <= address < start + len(block):
                assert address - start + size <= len(block), "past the end of an allocation"
                return block[address - start : address - start + size]
        raise AssertionError(f"{address} was not allocated")

    def array(self, address: Address, shape: Sequence[int], dtype: Any) -> NDArray[Any]:
        assert address % np.dtype(dtype).itemsize == 0
        return self.at(address, int(np.prod(shape)) * np.dtype(dtype).itemsize).view(dtype).reshape(shape)

    def free_memory(self) -> int:
        return self.memory - sum(len(block) for block in self.blocks.values())

    def _is_pinned(self, host: Bytes) -> bool:
        return any(np.shares_memory(host, memory) for memory in self.pinned)

    # --- streams and events

    def stream(self) -> Stream:
        self.streams += 1
        return Stream(self.streams)

    def event(self) -> Event:
        self.calls.append("event")
        self.events += 1
        return Event(self.events)

    def enqueue(self, name: str, stream: Stream, operation: Operation) -> None:
        self.calls.append(name)
        if self.capturing is not None and self.capturing[0] == stream:
            self.capturing[1].append(operation)
        else:
            self.queues[stream].append(operation)

    def record(self, event: Event, stream: Stream) -> None:
        self.calls.append("record")
        assert self.capturing is None
        self.recorded[event] = stream, len(self.queues[stream])

    def wait(self, stream: Stream, event: Event) -> None:
        until = self.recorded[event]  # of now: a later record of the event does not move it
        self.enqueue("wait", stream, lambda: self._run(*until))

    def synchronize(self, event: Event) -> None:
        self.calls.append("synchronize")
        if self.fails_at is not None:
            self.fails_at -= 1
            if self.fails_at < 0:
                raise DriverError("cuEventSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS")
        self._run(*self.recorded[event])

    def _run(self, stream: Stream, until: int) -> None:
        while self.executed[stream] < until:
            self.executed[stream] += 1
            self.queues[stream][self.executed[stream] - 1]()

    # --- operations

    def upload(self, to: Address, source: Bytes, stream: Stream) -> None:
        assert self._is_pinned(source), "the device reads memory that is not page-locked"
        self.enqueue("upload", stream, lambda: np.copyto(self.at(to, len(source)), source))

    def download(self, to: Bytes, source: Address, stream: Stream) -> None:
        assert self._is_pinned(to), "the device writes memory that is not page-locked"
        self.enqueue("download", stream, lambda: np.copyto(to, self.at(source, len(to))))

    def copy(self, to: Address, source: Address, size: int, stream: Stream) -> None:
        self.enqueue("copy", stream, lambda: np.copyto(self.at(to, size), self.at(source, size)))

    def _rows(self, pool: Address, places: Address, rows: int, floats: int) -> list[NDArray[Any]]:
        return [
            self.array(pool + 4 * floats * at, (floats,), np.float32) for at in self.array(places, (rows,), np.int32)
        ]

    def gather(self, to: Address, pool: Address, places: Address, rows: int, floats: int, stream: Stream) -> None:
        def operation() -> None:
            for row, source in enumerate(self._rows(pool, places, rows, floats)):
                self.array(to, (rows, floats), np.float32)[row] = source

        self.enqueue("gather", stream, operation)

    def scatter(self, pool: Address, source: Address, places: Address, rows: int, floats: int, stream: Stream) -> None:
        def operation() -> None:
            for row, to in enumerate(self._rows(pool, places, rows, floats)):
                to[:] = self.array(source, (rows, floats), np.float32)[row]

        self.enqueue("scatter", stream, operation)

    def mix(self, pool: Address, places: Address, weights: Address, rows: int, floats: int, stream: Stream) -> None:
        def operation() -> None:
            for row in range(rows):
                to, *terms = self._rows(pool, places + 16 * row, 4, floats)
                first, second, third = self.array(weights + 12 * row, (3,), np.float32)
                to[:] = first * terms[0] + second * terms[1] + third * terms[2]

        self.enqueue("mix", stream, operation)

    # --- graphs

    def begin_capture(self, stream: Stream) -> None:
        self.calls.append("begin_capture")
        assert self.capturing is None
        assert self.executed[stream] == len(self.queues[stream]), "a capture begins while something is under way"
        self.capturing = stream, []

    def end_capture(self, stream: Stream) -> CudaGraph:
        self.calls.append("end_capture")
        assert self.capturing is not None
        assert self.capturing[0] == stream
        graph = CudaGraph(len(self.graphs) + 1)
        self.graphs[graph] = self.capturing[1]
        self.capturing = None
        return graph

    def launch(self, graph: CudaGraph, stream: Stream) -> None:
        def launch_all() -> None:
            for operation in self.graphs[graph]:
                operation()

        self.enqueue("launch", stream, launch_all)


def following(inputs: StepInputs, x: States, x0: States, **changes: Any) -> StepInputs:
    """The inputs of a step from where another one ended."""
    rows = range(x.shape[0])
    return replace(inputs, x=[x[row] for row in rows], x0_prev=[x0[row] for row in rows], **changes)


class FakeNetwork:
    """A `service.runtimes.cuda.driver.Network` whose step is a function of arrays."""

    def __init__(
        self, driver: FakeDriver, shape: Shape, step: Step, buckets: Sequence[int], capturable: bool = True
    ) -> None:
        self.driver, self.shape, self.step = driver, shape, step
        self.buckets, self.capturable = buckets, capturable
        self.bound: dict[int, dict[str, Address]] = {}
        self.ran: list[int] = []  # rows of each step that was executed

    def bind(self, bucket: int, addresses: dict[str, Address], stream: Stream) -> None:
        assert bucket in self.buckets
        assert bucket not in self.bound
        inputs = {field.name for field in self.shape.fields} | {"x", "x0_prev", "x_new", "x0", MAGNITUDE}
        assert addresses.keys() == {name for name in inputs if not name.endswith("_at")}
        assert all(address % 256 == 0 for address in addresses.values())
        self.bound[bucket] = addresses

    def enqueue(self, bucket: int, stream: Stream) -> None:
        self.driver.enqueue("network", stream, lambda: self._run(bucket))

    def _run(self, bucket: int) -> None:
        self.ran.append(bucket)
        addresses = self.bound[bucket]
        fields = [field for field in self.shape.fields if not field.name.endswith("_at")]

        def state(name: str) -> NDArray[Any]:
            return self.driver.array(addresses[name], (bucket, *self.shape.state), np.float32)

        inputs = {
            field.name: self.driver.array(addresses[field.name], (bucket, *field.shape), field.dtype)
            for field in fields
        }
        x_new, x0 = self.step({**inputs, "x": state("x"), "x0_prev": state("x0_prev")})
        state("x_new")[:], state("x0")[:] = x_new, x0
        sums = np.abs(x_new).sum(axis=(1, 2, 3)) + np.abs(x0).sum(axis=(1, 2, 3))
        self.driver.array(addresses[MAGNITUDE], (bucket,), np.float32)[:] = sums


class FakeDecoder:
    """A `service.runtimes.cuda.driver.Network` that makes images of states by a function of arrays."""

    def __init__(
        self,
        driver: FakeDriver,
        shape: Shape,
        decode: Callable[[NDArray[Any]], NDArray[Any]],
        buckets: Sequence[int],
        capturable: bool = True,
    ) -> None:
        self.driver, self.shape, self.decode = driver, shape, decode
        self.buckets, self.capturable = buckets, capturable
        self.bound: dict[int, dict[str, Address]] = {}

    def bind(self, bucket: int, addresses: dict[str, Address], stream: Stream) -> None:
        assert addresses.keys() == {"x", "images"}
        self.bound[bucket] = addresses

    def enqueue(self, bucket: int, stream: Stream) -> None:
        def operation() -> None:
            x = self.driver.array(self.bound[bucket]["x"], (bucket, *self.shape.state), np.float32)
            images = self.driver.array(self.bound[bucket]["images"], (bucket, *self.shape.image), np.float32)
            images[:] = self.decode(x)

        self.driver.enqueue("decoder", stream, operation)


class InFakeMemory:
    """In `OrtCudaNetwork`'s place: the same file, computed by ONNX Runtime on the CPU in the fake GPU's memory."""

    capturable = True
    driver: FakeDriver

    def __init__(self, path: Path, engines: Engines, *, graphs: bool) -> None:
        self.session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.graph = engines.graphs[path.name]
        self.bound: dict[int, dict[str, Address]] = {}

    def compute(self, inputs: Arrays) -> list[NDArray[Any]]:
        outputs: list[NDArray[Any]] = self.session.run(None, inputs)
        return outputs

    def bind(self, bucket: int, addresses: dict[str, Address], stream: Stream) -> None:
        assert addresses.keys() == {tensor.name for tensor in (*self.graph.inputs, *self.graph.outputs)}
        self.bound[bucket] = addresses

    def enqueue(self, bucket: int, stream: Stream) -> None:
        def array(name: str, shape: list[int], dtype: str) -> Any:
            return self.driver.array(self.bound[bucket][name], (bucket, *shape[1:]), np.dtype(dtype))

        def operation() -> None:
            inputs = {tensor.name: array(tensor.name, tensor.shape, tensor.dtype) for tensor in self.graph.inputs}
            for tensor, value in zip(self.graph.outputs, self.compute(inputs), strict=True):
                array(tensor.name, tensor.shape, tensor.dtype)[:] = value

        self.driver.enqueue("network", stream, operation)
