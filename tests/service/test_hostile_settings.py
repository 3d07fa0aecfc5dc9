"""Whatever stands in the environment: a setting is right, or it is one short line."""

import os
from pathlib import Path

import pytest
from pydantic_settings import CliApp
from structlog.testing import capture_logs

from service.__main__ import check_environment, explain
from service.app import create_app
from service.requests import keys
from service.settings import PREFIX, Settings

VALUES = {
    "blank": " ", "a tab and a line's end": "\t\n", "400 digits": "9" * 400, "beyond any float": "1e999",
    "negative": "-1", "no number": "nan", "Arabic digits": "٣", "wide digits": "１２", "two lines": "1\n2",
    "hexadecimal": "0x10", "Kubernetes' own": "tcp://10.0.0.1:8000", "a device": "/dev/zero", "nowhere": "/nowhere",
    "a star": "*", "half a character": "\udcff", "a list of a number": '["*", 5]', "lists": "[" * 100_000,
    "an escape": "\x1b[31m",
}  # fmt: skip
AS_THEY_ARE = {"host", "keys", "methods"}  # names, which are found or not


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_a_value_that_cannot_be_meant_is_one_short_line(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields.keys() - AS_THEY_ARE:
        monkeypatch.setenv(f"{PREFIX}{name.upper()}", value)
        with pytest.raises((OSError, ValueError, RecursionError)) as refused:  # what main() has a line for
            print(Settings())
        line = explain(refused.value)
        assert len(line) < 400
        assert line.isprintable()
        monkeypatch.delenv(f"{PREFIX}{name.upper()}")


@pytest.mark.parametrize("value", [value for value in VALUES.values() if value.strip()], ids=ascii)
def test_a_method_that_is_not_there_is_one_short_line(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}METHODS", value)
    with pytest.raises(ValueError, match="--methods") as refused:
        create_app(Settings())
    line = explain(refused.value)
    assert len(line) < 400
    assert line.isprintable()


def test_what_is_empty_counts_as_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Settings()
    for name in Settings.model_fields:
        monkeypatch.setenv(f"{PREFIX}{name.upper()}", "")
    assert Settings() == CliApp.run(Settings, cli_args=["--host", "", "--bundles", "", "--keys", ""]) == absent


def test_a_setting_in_two_spellings_is_refused_and_one_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRILEMMA_PROT", "8000")
    monkeypatch.setenv("TRILEMMA_URL", "http://localhost:8000")  # the client's
    monkeypatch.setenv("trilemma_port", "8001")
    with capture_logs() as lines:
        check_environment()
    assert [line["names"] for line in lines] == [["TRILEMMA_PROT"]]
    monkeypatch.setenv("TRILEMMA_PORT", "8002")
    with pytest.raises(ValueError, match="TRILEMMA_PORT and trilemma_port are one setting"):
        check_environment()


def test_a_file_of_keys_that_would_never_end_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", 2**40)
    (tmp_path / "deep").write_text("a = " + "[" * 100_000)
    for path in (tmp_path / "fifo", tmp_path / "large", Path("/dev/zero"), tmp_path, tmp_path / "deep"):
        with pytest.raises(ValueError, match=str(path)):
            keys.read(path)
