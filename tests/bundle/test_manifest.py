import json
from pathlib import Path
from typing import Any

import pytest

from bundle.manifest import MANIFEST, STEP, Bundle, BundleError, Manifest, load, load_all
from service.errors import InvalidRequest
from service.requests.request import GenerateRequest
from tests.conftest import write_bundle

CLASSES = {"min": 0, "max": 2, "names": ["zero", "one", "2"]}


def edit(folder: Path, **changes: Any) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_file_that_was_altered_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "toy")
    (folder / STEP).write_bytes(b"another graph")
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
    assert str(folder) in str(refused.value)


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
    write_bundle(tmp_path / "d")
    write_bundle(tmp_path / ".e.partial", name="hidden")
    (tmp_path / "notes.txt").write_text("not a bundle")
    bundles, failed = load_all(tmp_path)
    assert set(bundles) == {"toy", "other"}
    assert set(failed) == {"c", "d"}
    assert "already served" in failed["d"]


def test_a_folder_that_is_not_there_has_no_bundles(tmp_path: Path) -> None:
    assert load_all(tmp_path / "nowhere") == ({}, {})


def test_the_digest_changes_with_all_that_decides_the_images_and_nothing_else(toy: Bundle) -> None:
    content = toy.manifest.model_dump(mode="json")

    def digest(**changes: Any) -> str:
        return Manifest.model_validate({**content, **changes}).digest

    assert digest(measured={"quality": 1}) == digest(checkpoint={"sha256": "x"}) == toy.digest
    deciding = [
        {"files": {STEP: {"sha256": "0" * 64, "bytes": 11}}},
        {"noise_schedule": {"alphas_cumprod": [0.9, 0.1]}},
        {"classes": ["zero"]},
        {"shape": [1, 8, 8]},
        {"latent": 3},
    ]
    assert len({toy.digest, *(digest(**changes) for changes in deciding)}) == len(deciding) + 1


def ask(toy: Bundle, **request: Any) -> Any:
    return toy.resolve(GenerateRequest.model_validate({"method": "toy", **request}))


def test_defaults_are_the_models(toy: Bundle) -> None:
    resolved = ask(toy)
    assert (resolved.steps, resolved.solver, resolved.settings, resolved.label) == (5, "ddim", (("eta", 0.0),), 3)
    assert 0 <= resolved.seed < 2**64
    assert ask(toy).seed != resolved.seed


def test_a_class_is_found_by_name_before_number(toy: Bundle) -> None:
    assert [ask(toy, class_label=label).label for label in ("one", 1, "2", 2, None)] == [1, 1, 2, 2, 3]


@pytest.mark.parametrize(
    ("request_", "field", "allowed"),
    [
        ({"steps": 1001}, "steps", {"min": 1, "max": 1000}),
        ({"solver": "euler"}, "solver", ["ddim", "dpmpp_2m"]),
        ({"class_label": 3}, "class_label", CLASSES),
        ({"class_label": -1}, "class_label", CLASSES),
        ({"class_label": "seven"}, "class_label", CLASSES),
        ({"solver": "dpmpp_2m", "eta": 0.0}, "eta", None),
    ],
)
def test_what_the_model_cannot_do_is_refused_with_what_it_can(
    toy: Bundle, request_: dict[str, Any], field: str, allowed: Any
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        ask(toy, **request_)
    (error,) = refused.value.extra["errors"]
    assert (error["field"], error["allowed"]) == (field, allowed)


def test_the_steps_of_every_solver_are_tables_of_as_many_lines(toy: Bundle) -> None:
    for solver in toy.family.SOLVERS:
        resolved = ask(toy, solver=solver, steps=17)
        assert toy.table(17, solver, resolved.settings).shape == (17, 9)


def test_a_model_may_not_be_named_auto(tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle", name="auto")
    with pytest.raises(BundleError, match="the name 'auto' is taken"):
        load(tmp_path / "bundle")
