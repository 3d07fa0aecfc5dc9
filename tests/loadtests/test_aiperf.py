"""NVIDIA's AIPerf against OpenAI's images, by the command of docs/load-testing.md."""

import json
import re
import shlex
import subprocess
from pathlib import Path

from tests.conftest import REPOSITORY, ToyRuntime, write_bundle
from tests.deploy.conftest import in_this_process

REQUESTS = 12


def documented() -> list[str]:
    """The command of the docs, without its server and its number of requests."""
    page = (REPOSITORY / "docs" / "load-testing.md").read_text().replace("\\\n", "")
    command = re.search(r"^\./run bench aiperf .+$", page, re.MULTILINE)
    assert command
    words = shlex.split(command[0])
    for option in ("--url", "--request-count"):
        place = words.index(option)
        del words[place : place + 2]
    return words


def test_aiperf_counts_every_image_and_no_error(tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundles" / "ddim", name="ddim", classes=[str(digit) for digit in range(10)])
    runtime = ToyRuntime()
    with in_this_process(tmp_path / "bundles", runtime, cache_bytes=0) as (url, _):
        options = ["--url", url, "--request-count", str(REQUESTS), "--output-artifact-dir", str(tmp_path / "report")]
        ended = subprocess.run([*documented(), *options], cwd=REPOSITORY, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (path,) = (tmp_path / "report").rglob("profile_export_aiperf.json")
    report = json.loads(path.read_text())
    assert report["request_count"]["avg"] == REQUESTS
    assert "error_request_count" not in report or not report["error_request_count"]["avg"]
    assert report["request_latency"]["p99"] >= report["request_latency"]["p50"] > 0
    assert sum(runtime.batches) == 10 * REQUESTS  # steps, as the command asks for
