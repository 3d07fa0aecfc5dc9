"""Tries bundles in another process before the service runs them: one that hangs, or takes all memory, harms that alone.

The process (`python -m service.runtimes.trial MAX_BATCH FOLDER ...`) loads each bundle, runs its smallest and its
largest batch, and writes a line of JSON for it.
"""

import ctypes
import json
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from bundle import loading
from bundle.loading import Bundle
from service.engine.denoise import first_step
from service.runtimes.cpu import OrtRuntime

TRIAL_S = 60  # for each bundle
MEMORY_BYTES, MEMORY_FACTOR = 2 * 2**30, 4  # address space: these bytes, and this multiple of the bundle's files
PR_SET_PDEATHSIG = 1


def failures(bundles: Sequence[Bundle], max_batch: int) -> dict[str, str]:
    """Why a bundle cannot be run, by the name of its folder, for each that cannot."""
    reasons: dict[str, str] = {}
    left = list(bundles)
    while left:
        for reason in _try(left, max_batch):
            bundle = left.pop(0)
            if reason is not None:
                reasons[bundle.folder.name] = reason
    return reasons


def _try(bundles: Sequence[Bundle], max_batch: int) -> Iterator[str | None]:
    """What came of the first of these bundles, and of the others as long as the process lives."""
    files_bytes = max(sum(file.bytes for file in bundle.manifest.files.values()) for bundle in bundles)
    memory_bytes = MEMORY_BYTES + MEMORY_FACTOR * files_bytes
    folders = [str(bundle.folder) for bundle in bundles]
    command = [sys.executable, "-m", "service.runtimes.trial", str(max_batch), str(memory_bytes), *folders]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0) as process:
        assert process.stdout is not None
        for _ in bundles:
            ready, _, _ = select.select([process.stdout], [], [], TRIAL_S)
            line = process.stdout.readline() if ready else b""
            if line:
                yield json.loads(line)
                continue
            process.kill()
            yield f"not ready after {TRIAL_S} s" if not ready else _end(process.wait())
            return


def _end(status: int) -> str:
    """How the process ended in the middle of a bundle."""
    how = signal.Signals(-status).name if status < 0 else f"status {status}"
    return f"loading it ended with {how}: it may need more memory than it may have"


def main() -> None:
    max_batch, memory_bytes, *folders = sys.argv[1:]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    with suppress(ValueError):  # where less is allowed already
        resource.setrlimit(resource.RLIMIT_AS, (int(memory_bytes), int(memory_bytes)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for folder in folders:
        print(json.dumps(_failure(Path(folder), int(max_batch))), flush=True)


def _failure(folder: Path, max_batch: int) -> str | None:
    try:
        bundle = loading.load(folder)
        runtime = OrtRuntime(bundle, threads=1)
        for rows in {1, max_batch}:
            x, _ = runtime.step(first_step(bundle, rows))
            runtime.decode(x)
    except Exception as error:  # whatever ONNX Runtime raises on a graph that it cannot run
        return f"{type(error).__name__}: {error}".replace(f"{folder.parent}/", "")[:500]
    return None


if __name__ == "__main__":
    main()
