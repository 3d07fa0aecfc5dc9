"""ONNX Runtime's session of a graph. As a script it is the other half of `sandbox`, and runs a graph within limits.

It imports next to nothing of the project, so that a process for it starts in a fraction of a second.
"""

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parents[2]))
from bundle import graph

LONGEST_REASON = 2000  # characters
DTYPES: dict[str, type[np.generic]] = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
PR_SET_PDEATHSIG = 1  # prctl(2)


def open_session(content: bytes, threads: int) -> ort.InferenceSession:
    """Opens a graph from memory: it has no folder, and so can read no other file."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.load_model_format", "ONNX")  # never the format of ONNX Runtime's own
    return ort.InferenceSession(content, options, ["CPUExecutionProvider"])


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
