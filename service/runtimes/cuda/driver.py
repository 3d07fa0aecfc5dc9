"""The interface below the runtime of a GPU: the driver's calls that it makes, and those of a network on the device.

Calls that take a stream return at once. The operations of one stream run in order.
"""

from typing import NewType, Protocol

import numpy as np
from numpy.typing import NDArray

Address = int  # of device memory
Bytes = NDArray[np.uint8]  # page-locked, so that the device can read and write it
Stream = NewType("Stream", int)
Event = NewType("Event", int)
CudaGraph = NewType("CudaGraph", int)  # captured, and ready to launch


class DriverError(RuntimeError):
    """A call failed; the message names it."""


class Driver(Protocol):
    """One device."""

    name: str  # with its architecture: NVIDIA A100-SXM4-80GB sm_80
    architecture: str

    def allocate(self, size: int) -> Address:
        """`size` bytes of device memory, all 0. Raises DriverError if they are not available."""
        ...

    def pin(self, size: int) -> Bytes:
        """`size` bytes of page-locked host memory, all 0."""
        ...

    def stream(self) -> Stream:
        """A new stream."""
        ...

    def event(self) -> Event:
        """A new event."""
        ...

    def upload(self, to: Address, source: Bytes, stream: Stream) -> None:
        """Copies host memory to the device."""
        ...

    def download(self, to: Bytes, source: Address, stream: Stream) -> None:
        """Copies device memory to the host."""
        ...

    def copy(self, to: Address, source: Address, size: int, stream: Stream) -> None:
        """Copies `size` bytes within the device."""
        ...

    def gather(self, to: Address, pool: Address, places: Address, rows: int, floats: int, stream: Stream) -> None:
        """Row i of `to` becomes row places[i] (int32) of `pool`; a row has `floats` float32."""
        ...

    def scatter(self, pool: Address, source: Address, places: Address, rows: int, floats: int, stream: Stream) -> None:
        """Row places[i] of `pool` becomes row i of `source`."""
        ...

    def mix(self, pool: Address, places: Address, weights: Address, rows: int, floats: int, stream: Stream) -> None:
        """Row places[i, 0] of `pool` becomes Σ weights[i, j]·row places[i, 1 + j], j < 3 (int32 and float32)."""
        ...

    def record(self, event: Event, stream: Stream) -> None:
        """The event occurs once all operations of the stream so far have run."""
        ...

    def wait(self, stream: Stream, event: Event) -> None:
        """Later operations of the stream run after the event."""
        ...

    def synchronize(self, event: Event) -> None:
        """Returns after the event. Raises DriverError if an operation before it failed."""
        ...

    def begin_capture(self, stream: Stream) -> None:
        """Later operations of the stream do not run: they become the graph that `end_capture` returns."""
        ...

    def end_capture(self, stream: Stream) -> CudaGraph:
        """The graph of the operations since `begin_capture`."""
        ...

    def launch(self, graph: CudaGraph, stream: Stream) -> None:
        """Runs the graph's operations."""
        ...

    def free_memory(self) -> int:
        """Bytes of the device's memory that are free."""
        ...


class Network(Protocol):
    """A step or a decoder on the device, at fixed batch sizes."""

    capturable: bool  # whether `enqueue` may be captured; if not, it launches a graph of its own

    def bind(self, bucket: int, addresses: dict[str, Address], stream: Stream) -> None:
        """Sets the addresses of its inputs and outputs, and its stream, for a batch size; called once for each size."""
        ...

    def enqueue(self, bucket: int, stream: Stream) -> None:
        """Runs the network at a batch size."""
        ...
