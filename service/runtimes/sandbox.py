"""Runs a graph in a process of its own before the service opens it: what it does there, it can do to nobody else.

A graph may crash ONNX Runtime, take all memory, or never end, and a thread cannot be stopped. A process can.
"""

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from bundle.files import BundleError, name
from bundle.graph import Graph
from bundle.loading import Bundle
from bundle.manifest import ENCODE
from service.runtimes import trial

MAX_REASON = 500  # characters


class Sandbox:
    """Has limits for each bundle: seconds for all of its graphs, and memory for each beyond that of an idle process."""

    def __init__(self, seconds: float, memory_bytes: int) -> None:
        self.seconds, self.memory_bytes = seconds, memory_bytes
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._closed = False
        self._changing = threading.Lock()  # over both

    def close(self) -> None:
        """Ends every process, those to come too."""
        with self._changing:
            self._closed = True
            for process in self._processes:
                process.kill()

    def check(self, bundle: Bundle, rows: int) -> int:
        """Runs each graph of the bundle, for a batch of `rows`, or of fewer where it takes long.

        Returns the most rows that all were run for. Raises BundleError for a graph that is refused.
        """
        ends_at = time.monotonic() + self.seconds
        for file in (*bundle.graphs, *[ENCODE] * bundle.encodes):
            graph = bundle.read(file)
            try:
                rows = min(rows, self._run(graph, rows, ends_at - time.monotonic()))
            except ValueError as error:
                raise BundleError(f"{name(bundle.folder / file)}: {error}") from error
        return rows

    def _run(self, graph: Graph, rows: int, seconds: float) -> int:
        """The most rows that it was run for. Raises ValueError if it breaks the limits, or ONNX Runtime refuses it."""
        limits = [os.getpid(), rows, math.ceil(self.seconds), self.memory_bytes]
        arguments = map(str, (len(graph.content), graph.weights_file, len(graph.weights), *limits))
        command = [sys.executable, "-P", trial.__file__, *arguments]
        pipe, quiet = subprocess.PIPE, subprocess.DEVNULL
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=quiet, start_new_session=True)
        with process, self._registered(process):
            try:
                assert process.stdin is not None
                with suppress(BrokenPipeError):  # it was ended; the script itself reads all before it does anything
                    process.stdin.write(graph.content)
                    process.stdin.write(graph.weights)
                said, _ = process.communicate(timeout=max(seconds, 0))
            except subprocess.TimeoutExpired:
                raise ValueError(f"it does not end within {self.seconds:g} s (--load-s)") from None
            finally:
                process.kill()
        if process.returncode < 0:
            how = signal.Signals(-process.returncode).name
            raise ValueError(f"running it ends a process by {how}: it crashes, or takes too much time or memory")
        if process.returncode:
            raise ValueError(said.decode(errors="replace")[:MAX_REASON])
        return int(said)

    @contextmanager
    def _registered(self, process: "subprocess.Popen[bytes]") -> Iterator[None]:
        """Meanwhile `close` ends it."""
        with self._changing:
            self._processes.add(process)
            if self._closed:
                process.kill()
        try:
            yield
        finally:
            with self._changing:
                self._processes.remove(process)
