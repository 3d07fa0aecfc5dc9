"""The seam below the runtime of a GPU: the few calls it makes of the driver, and of what runs a graph there.

Everything that takes a stream returns at once; what was given to one stream happens in that order.
"""

from typing import NewType, Protocol

import numpy as np
from numpy.typing import NDArray

Address = int  # of device memory
Bytes = NDArray[np.uint8]  # page-locked, so that the device reads and writes it by itself
Stream = NewType("Stream", int)
Event = NewType("Event", int)
CudaGraph = NewType("CudaGraph", int)  # a captured one, ready to launch


class DriverError(RuntimeError):
    """A call that failed; the message names it."""


class Driver(Protocol):
    """One device."""

    name: str  # and its architecture: NVIDIA A100-SXM4-80GB sm_80
    architecture: str

    def allocate(self, size: int) -> Address:
        """`size` bytes of device memory, all 0. Raises DriverError if there is not so much."""
        ...

    def pin(self, size: int) -> Bytes: ...

    def stream(self) -> Stream: ...

    def event(self) -> Event: ...

    def upload(self, to: Address, source: Bytes, stream: Stream) -> None: ...

    def download(self, to: Bytes, source: Address, stream: Stream) -> None: ...

    def copy(self, to: Address, source: Address, size: int, stream: Stream) -> None: ...

    def gather(self, to: Address, pool: Address, places: Address, rows: int, floats: int, stream: Stream) -> None:
        """Row i of `to` becomes row places[i] (int32) of `pool`; a row has `floats` float32."""
        ...

    def scatter(self, pool: Address, source: Address, places: Address, rows: int, floats: int, stream: Stream) -> None:
        """Row places[i] of `pool` becomes row i of `source`."""
        ...

    def record(self, event: Event, stream: Stream) -> None:
        """The event is when all that was given to the stream so far is done."""
        ...

    def wait(self, stream: Stream, event: Event) -> None:
        """What is given to the stream from now on happens after the event."""
        ...

    def synchronize(self, event: Event) -> None:
        """Returns after the event. Raises DriverError for what failed before it."""
        ...

    def begin_capture(self, stream: Stream) -> None:
        """What is given to the stream from now on is not done, but kept."""
        ...

    def end_capture(self, stream: Stream) -> CudaGraph: ...

    def launch(self, graph: CudaGraph, stream: Stream) -> None: ...

    def free_memory(self) -> int:
        """Bytes of the device's memory that nobody has."""
        ...


class Network(Protocol):
    """A step or a decoder on the device, at fixed batch sizes."""

    capturable: bool  # whether `enqueue` may be captured; if not, it launches a graph of its own

    def bind(self, bucket: int, addresses: dict[str, Address], stream: Stream) -> None:
        """Where its inputs are, its outputs go and it runs, at this batch size; called once for each."""
        ...

    def enqueue(self, bucket: int, stream: Stream) -> None: ...
