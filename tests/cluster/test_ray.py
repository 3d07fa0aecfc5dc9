"""`./run chaos`, short, with real Ray: two replicas, killed, stopped, reloaded and replaced under some requests."""

import json
import subprocess
from pathlib import Path

from tests.conftest import REPOSITORY


def test_each_request_gets_one_answer_whatever_happens_to_the_replicas(tmp_path: Path) -> None:
    """Sampled images are those of one service; it is the command that says so."""
    options = ["--requests", "2000", "--fault-s", "3", "--log", str(tmp_path / "cluster.log")]
    ended = subprocess.run([str(REPOSITORY / "run"), "chaos", *options], capture_output=True, text=True)
    log = (tmp_path / "cluster.log").read_text()
    assert ended.returncode == 0, ended.stdout + ended.stderr + log
    report = json.loads(ended.stdout)
    assert report["outcomes"]["samples 200"] == 1
    assert report["faults"]["kill"] >= 1
    assert report["sampled"] > 200
