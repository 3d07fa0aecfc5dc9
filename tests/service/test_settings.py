from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import CliApp

from service.settings import Settings

TIMES = [name for name in Settings.model_fields if name.endswith("_s") and not name.startswith("max_")]


def test_the_defaults_are_those_of_the_readme() -> None:
    settings = CliApp.run(Settings, cli_args=[])
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.bundles.name == "bundles"


def test_the_command_line_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRILEMMA_PORT", "9000")
    monkeypatch.setenv("TRILEMMA_MAX_BATCH", "3")
    settings = CliApp.run(Settings, cli_args=["--port", "9001", "--bundles", str(tmp_path)])
    assert (settings.port, settings.max_batch, settings.bundles) == (9001, 3, tmp_path)


def test_methods_are_names_with_commas_between_them_and_an_empty_list_is_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, methods in (("", []), ("ddim", ["ddim"]), (" ddim, ddim-cifar10,", ["ddim", "ddim-cifar10"])):
        monkeypatch.setenv("TRILEMMA_METHODS", text)
        assert CliApp.run(Settings, cli_args=[]).methods == methods
    assert CliApp.run(Settings, cli_args=["--methods", "vdm,latent"]).methods == ["vdm", "latent"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_batch", "0"),
        ("max_batch", "1000000000"),
        ("threads", "-1"),
        ("threads", "1000000"),
        ("workers", "100000"),
        ("port", "65536"),
        ("max_queued_images", "63"),
        ("log_level", "loud"),
        ("load_bytes", "1"),
        ("load_bytes", "1" + "0" * 30),
        ("max_header_bytes", "1"),
        *((name, value) for name in TIMES for value in ("inf", "nan", "1e300", "-1")),
    ],
)
def test_nonsense_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"TRILEMMA_{name.upper()}", value)
    with pytest.raises(ValidationError, match=name):
        CliApp.run(Settings, cli_args=[])


def test_every_setting_is_documented_and_listed_by_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        CliApp.run(Settings, cli_args=["--help"])
    listed = capsys.readouterr().out
    for name, field in Settings.model_fields.items():
        assert field.description
        assert f"--{name.replace('_', '-')} " in listed
