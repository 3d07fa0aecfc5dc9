import json
import os
from pathlib import Path
from typing import Any

import pytest

from bundle.files import BundleError
from bundle.loading import Bundle, load, load_all
from bundle.manifest import MANIFEST, STEP, Manifest
from models.step import Step
from tests.conftest import write_bundle


def edit(folder: Path, **changes: Any) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_file_that_was_altered_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "toy")
    (folder / STEP).write_bytes(b"\x08\x09")
    with pytest.raises(BundleError, match=rf"{STEP}: SHA-256 is [0-9a-f]+, the manifest says"):
        load(folder)


def test_a_file_that_is_missing_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "toy")
    (folder / STEP).unlink()
    with pytest.raises(BundleError, match=f"{STEP}: No such file"):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "format version 2; this service reads version 1"),
        ({"family": "unheard-of"}, "family 'unheard-of' is unknown; known: .*ddim"),
        ({"files": {}}, f"lists no {STEP}"),
        ({"files": {STEP: {"sha256": "0" * 64, "bytes": 1}, "../secret": {"sha256": "0" * 64, "bytes": 1}}}, "secret"),
        ({"shape": [1, 2]}, "shape"),
        ({"surprise": 1}, "surprise"),
        ({"name": "Not A Name"}, "name"),
    ],
)
def test_a_manifest_that_cannot_be_meant_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = write_bundle(tmp_path / "toy")
    edit(folder, **changes)
    with pytest.raises(BundleError, match=message) as refused:
        load(folder)
    assert str(refused.value).startswith(f"{folder.name}/{MANIFEST}")


@pytest.mark.parametrize("content", ["", "{", "[]", "null"])
def test_a_manifest_that_is_no_object_is_refused_by_name(tmp_path: Path, content: str) -> None:
    folder = write_bundle(tmp_path / "toy")
    (folder / MANIFEST).write_text(content)
    with pytest.raises(BundleError, match=MANIFEST):
        load(folder)


def test_one_bad_bundle_is_reported_and_the_others_are_served(tmp_path: Path) -> None:
    write_bundle(tmp_path / "a")
    write_bundle(tmp_path / "b", name="other")
    write_bundle(tmp_path / "c", name="third", format_version=9)
    write_bundle(tmp_path / ".e.partial", name="hidden")
    (tmp_path / "notes.txt").write_text("not a bundle")
    bundles, failed = load_all(tmp_path)
    assert set(bundles) == {"toy", "other"}
    assert set(failed) == {"c"}


def test_of_two_bundles_of_one_name_that_in_the_folder_of_that_name_has_it(tmp_path: Path) -> None:
    for folder in ("a", "b", "other"):
        write_bundle(tmp_path / folder, name="other" if folder == "other" else "toy")
    bundles, failed = load_all(tmp_path)
    assert (list(bundles), set(failed)) == (["other"], {"a", "b"})
    write_bundle(tmp_path / "toy")
    bundles, failed = load_all(tmp_path)
    assert failed == {"a": "a: its name 'toy' is that of b, toy too", "b": "b: its name 'toy' is that of a, toy too"}
    assert bundles["toy"].folder == tmp_path / "toy"


def test_a_folder_that_is_not_there_is_a_fault_and_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="the bundles' folder cannot be read"):
        load_all(tmp_path / "nowhere")


def test_the_digest_changes_with_all_that_decides_the_images_and_nothing_else(toy: Bundle) -> None:
    content = toy.manifest.model_dump(mode="json", by_alias=True)

    def digest(**changes: Any) -> str:
        return Manifest.model_validate({**content, **changes}).digest

    assert digest(measured={"machine": "another"}) == digest(checkpoint={"sha256": "x"}) == toy.manifest.digest
    deciding = [
        {"files": {STEP: {"sha256": "0" * 64, "bytes": 11}}},
        {"noise_schedule": {"alphas_cumprod": [0.9, 0.1]}},
        {"classes": ["zero"]},
        {"shape": [1, 8, 8]},
        {"latent": 3},
    ]
    assert len({toy.manifest.digest, *(digest(**changes) for changes in deciding)}) == len(deciding) + 1


def test_a_model_may_not_be_named_auto(tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle", name="auto")
    with pytest.raises(BundleError, match="the name 'auto' is taken"):
        load(tmp_path / "bundle")


def test_the_steps_of_every_solver_are_tables_of_as_many_rows(toy: Bundle) -> None:
    for name, solver in toy.family.SOLVERS.items():
        rows = 2 * 17 - 1 if name == "heun" else 17  # its steps but the last have two
        assert toy.coefficients(17, name, solver.defaults).shape == (rows, len(Step._fields))


def test_a_manifest_that_the_disk_does_not_take_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_bundle(tmp_path / "toy")
    before = (folder / MANIFEST).read_bytes()
    changed = load(folder).manifest.model_copy(update={"recommended_steps": 7})

    def full(descriptor: int) -> None:
        raise OSError("no space left on the device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="no space"):
            changed.write(folder)
    assert (folder / MANIFEST).read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == [MANIFEST, STEP]
    changed.write(folder)
    assert load(folder).manifest.recommended_steps == 7
