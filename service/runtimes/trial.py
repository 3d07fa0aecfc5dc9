"""The script that `sandbox` starts: it runs a graph once, within limits.

It imports next to nothing of the project, so that its process starts in a fraction of a second.
"""

import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parents[2]))
from bundle.graph import Graph, check
from service.runtimes.onnx_session import open_session

FEW_ROWS = 2  # which an image with guidance takes
LONG_S = 1.0  # of a run: a large model, of which the service takes no larger batch than was tried
LONGEST_REASON = 2000  # characters
DTYPES: dict[str, type[np.generic]] = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
PR_SET_PDEATHSIG = 1  # prctl(2)


def run_once(graph: Graph, rows: int, clock: Callable[[], float] = time.monotonic) -> int:
    """Opens the graph and runs it, for a few rows of zeros and then for so many, unless the few take LONG_S.

    Returns the most rows that it ran. Raises ValueError, or whatever ONNX Runtime raises.
    """
    check(graph)
    session = open_session(graph, threads=1)
    few = min(FEW_ROWS, rows)
    start_s = clock()
    session.run(None, zeros(session, few))
    if few == rows or clock() - start_s >= LONG_S:
        return few
    session.run(None, zeros(session, rows))
    return rows


def zeros(session: Any, rows: int) -> dict[str, NDArray[Any]]:
    """The session's inputs. Raises ValueError for one that no graph of a bundle has."""
    inputs = {}
    for tensor in session.get_inputs():
        _, *row = tensor.shape
        if tensor.type not in DTYPES or not all(isinstance(side, int) for side in row):
            raise ValueError(f"input {tensor.name!r} is a {tensor.type} of shape {tensor.shape}")
        inputs[tensor.name] = np.zeros((rows, *row), dtype=DTYPES[tensor.type])
    return inputs


def limit(parent: int, seconds: int, memory_bytes: int) -> None:
    """Limits this process to the life of its parent, to seconds of a processor, and to memory beyond what it has."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it has ended already
            os._exit(1)
        Path("/proc/self/oom_score_adj").write_text("1000")  # where memory ends, this process does first
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        memory_bytes += pages * resource.getpagesize()
    limits = {resource.RLIMIT_CPU: seconds, resource.RLIMIT_AS: memory_bytes}
    for kind, most in {**limits, resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: 0}.items():
        _, allowed = resource.getrlimit(kind)
        lower = most if allowed == resource.RLIM_INFINITY else min(most, allowed)
        resource.setrlimit(kind, (lower, lower))


def main(graph_bytes: int, weights_file: str, weights_bytes: int, *limits: int) -> None:
    """Exits with 0 if a graph runs, and prints for how many rows; else prints why not, as far as it lives to say so.

    stdin has the graph's ONNX file and then its external data, of so many bytes each.
    """
    parent, rows, seconds, memory_bytes = limits
    graph = Graph(sys.stdin.buffer.read(graph_bytes), weights_file, sys.stdin.buffer.read(weights_bytes))
    try:
        limit(parent, seconds, memory_bytes)
        tried = run_once(graph, rows)
    except Exception as error:  # whatever ONNX Runtime raises
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        reason = f"{kind}{error}"[:LONGEST_REASON]
        sys.stdout.buffer.write(reason.encode(errors="backslashreplace"))
        sys.stdout.flush()
        os._exit(1)
    sys.stdout.write(str(tried))
    sys.stdout.flush()
    os._exit(0)  # at once: nothing is left to be put in order


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
