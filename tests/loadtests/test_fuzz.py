"""The service keeps to its own description, and the fuzzer sees one that does not."""

import re
from pathlib import Path

import pytest

from loadtests.fuzz import fuzz
from tests.conftest import write_bundle
from tests.deploy.conftest import in_this_process

FUZZING = ["--phases", "fuzzing", "--no-color"]


def test_no_request_makes_an_answer_that_the_description_lacks(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_bundle(tmp_path / "toy")
    with in_this_process(tmp_path) as (url, _):
        status = fuzz(url, 20, ["--seed", "1", *FUZZING])
    output = capfd.readouterr().out
    assert status == 0, output
    (generated,) = re.findall(r"(\d+) generated", output)
    assert int(generated) >= 200


def test_an_error_of_the_servers_fails_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_bundle(tmp_path / "toy")
    with in_this_process(tmp_path) as (url, app):
        app.state.service.engine.stop()
        status = fuzz(url, 5, ["--seed", "1", *FUZZING, "--include-path", "/healthz"])
    assert status == 1
    assert "503" in capfd.readouterr().out
