"""`./run export` ends with one line where it cannot go on, and never takes away a folder that is no bundle."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from export import replacement
from export.__main__ import main
from export.onnx_bundle import is_of_bundle
from models import checkpoint
from models.checkpoint import Card
from models.ddim.loss import SCHEDULE
from tests.conftest import SHIPPED

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A checkpoint of a tiny model."""
    card = Card(
        name="tiny",
        family="ddim",
        shape=(1, 8, 8),
        classes=["a"],
        noise_schedule=SCHEDULE,
        network={"channels": [8, 32]},
        recommended_steps=4,
        training={},
    )
    checkpoint.save(tmp_path / "checkpoint", card, card.build().state_dict())
    return tmp_path / "checkpoint"


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command, which cannot go on; the one line that it writes to stderr."""

    def run(*arguments: object) -> str:
        monkeypatch.setattr("sys.argv", ["export", *map(str, arguments)])
        with pytest.raises(SystemExit, match="1"):
            main()
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    return run


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("files", [None, ["model.json"], ["model.safetensors"]])
def test_a_checkpoint_that_is_not_there_or_not_whole_is_an_error_of_one_line(
    source: Path, tmp_path: Path, refusal: Callable[..., str], files: list[str] | None
) -> None:
    for name in files or []:
        (source / name).unlink()
    error = refusal(source if files else tmp_path / "nowhere", "-o", tmp_path / "bundle")
    assert ("nowhere" if files is None else files[0]) in error
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    "files",
    [
        {"thesis.tex": "years"},
        {"manifest.json": '{"manifest_version": 3}'},
        {"manifest.json": "[]", "step.onnx": ""},
        {"manifest.json": '{"format_version": 1}', "step.onnx": "", "notes.txt": "mine"},
        {"mnist/manifest.json": '{"format_version": 1}', "ddim/step.onnx": ""},
        {".git/HEAD": "ref"},
    ],
    ids=["a document", "an extension", "a list", "a note in a bundle", "the folder of all bundles", "a repository"],
)
def test_a_folder_that_is_no_bundle_is_not_replaced(
    source: Path, tmp_path: Path, refusal: Callable[..., str], files: dict[str, str]
) -> None:
    for name, text in files.items():
        path = tmp_path / "precious" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    before = contents(tmp_path)
    error = refusal(source, "-o", tmp_path / "precious")
    assert f"{tmp_path / 'precious'}: it would be replaced, and has files of others (" in error
    assert contents(tmp_path) == before


def test_neither_a_checkpoint_nor_a_file_nor_a_root_is_replaced(
    source: Path, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    (tmp_path / "file").write_text("precious")
    before = contents(tmp_path)
    for target in (source, tmp_path / "file", tmp_path, "/", source / ".."):
        assert "choose another folder" in refusal(source, "-o", target)
    assert contents(tmp_path) == before


def test_a_bundle_may_be_replaced_with_all_that_is_made_for_it(tmp_path: Path) -> None:
    bundle = shutil.copytree(SHIPPED, tmp_path / "bundle")
    for name in ("cuda", ".tensorrt.partial", "tensorrt-rtx"):
        (bundle / name).mkdir()
    (bundle / "tensorrt.timing.cache").touch()
    replacement.check(bundle, is_of_bundle)
    replacement.check(tmp_path / "absent", is_of_bundle)
    (tmp_path / "empty").mkdir()
    replacement.check(tmp_path / "empty", is_of_bundle)


def test_the_old_folder_is_there_until_the_new_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("new", "target"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    states = []
    delete = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", lambda *of, **how: (states.append(contents(tmp_path)), delete(*of, **how)))
    replacement.swap(tmp_path / "new", tmp_path / "target")
    assert all({b"new", b"target"} <= set(files.values()) for files in states)
    assert contents(tmp_path) == {tmp_path / "target" / "file": b"new"}
