"""A process of the service ends when it is told to, whatever it is loading, and nothing of it is left."""

import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, WITHIN_S, write_bundle
from tests.service.registry.graphs import slow, write

HANGING = """if True:
    import threading
    from service import __main__ as main
    from service.app import create_app

    def hang(model, threads):
        print("hanging", flush=True)
        threading.Event().wait()

    main.create_app = lambda settings: create_app(settings, hang)
    main.main()
"""


def children(pid: int) -> list[int]:
    pids: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended since
            pids += map(int, (task / "children").read_text().split())
    return pids


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_bundle_that_is_tried_ends_with_the_service(tmp_path: Path, signum: signal.Signals) -> None:
    write(tmp_path / "slow", slow())
    command = [sys.executable, "-m", "service", "--port", "0", "--bundles", str(tmp_path)]
    with subprocess.Popen(command, cwd=REPOSITORY) as process:
        while not (trials := children(process.pid)):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signum)
        assert process.wait(WITHIN_S) == (0 if signum == signal.SIGTERM else -signal.SIGKILL)
    while any(is_running(trial) for trial in trials):
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Whether there is such a process, and not only its exit status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_runtime_that_hangs_does_not_keep_the_process_from_ending_with_0(tmp_path: Path) -> None:
    write_bundle(tmp_path / "toy")
    command = [sys.executable, "-c", HANGING, "--port", "0", "--bundles", str(tmp_path)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"hanging\n"
        process.terminate()
        assert process.wait(WITHIN_S) == 0
