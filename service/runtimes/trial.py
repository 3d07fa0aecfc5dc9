"""The script that `sandbox` starts: it runs a graph once, within limits.

It imports next to nothing of the project, so that its process starts in a fraction of a second.
"""

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parents[2]))
from bundle import graph
from service.runtimes.onnx_session import open_session

LONGEST_REASON = 2000  # characters
DTYPES: dict[str, type[np.generic]] = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
PR_SET_PDEATHSIG = 1  # prctl(2)


def run_once(content: bytes, rows: int) -> None:
    """Opens the graph and runs it for so many rows of zeros. Raises ValueError, or whatever ONNX Runtime raises."""
    graph.check(content)
    session = open_session(content, threads=1)
    inputs = {}
    for tensor in session.get_inputs():
        _, *row = tensor.shape
        if tensor.type not in DTYPES or not all(isinstance(side, int) for side in row):
            raise ValueError(f"input {tensor.name!r} is a {tensor.type} of shape {tensor.shape}")
        inputs[tensor.name] = np.zeros((rows, *row), dtype=DTYPES[tensor.type])
    session.run(None, inputs)


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


def main(parent: int, rows: int, seconds: int, memory_bytes: int) -> None:
    """Reads a graph from stdin. Exits with 0 if it runs; else prints why not, as far as it lives to say so."""
    content = sys.stdin.buffer.read()
    try:
        limit(parent, seconds, memory_bytes)
        run_once(content, rows)
    except Exception as error:  # whatever ONNX Runtime raises
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        reason = f"{kind}{error}"[:LONGEST_REASON]
        sys.stdout.buffer.write(reason.encode(errors="backslashreplace"))
        sys.stdout.flush()
        os._exit(1)
    os._exit(0)  # at once: nothing is left to be put in order


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
