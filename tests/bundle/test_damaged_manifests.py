"""A damaged manifest is refused in a line that names its bundle, whatever the damage, and nothing else happens."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundle.loading import load_all
from bundle.manifest import MANIFEST, STEP
from tests.bundle.conftest import changed, good

BIG = 10**400
DIGEST = "0" * 64
PLACES: list[tuple[str, Any]] = [
    ("format_version", ...),
    ("format_version", "1"),
    ("format_version", 1e999),
    ("format_version", BIG),
    ("name", ...),
    ("name", ""),
    ("name", "auto"),
    ("name", "../up"),
    ("name", "a\n"),
    ("name", "a" * 65),
    ("name", 7),
    ("family", "unheard-of"),
    ("family", "../ddim"),
    ("family", ["ddim"]),
    ("shape", [1, 4]),
    ("shape", [0, 4, 4]),
    ("shape", [-1, 4, 4]),
    ("shape", [3, 8192, 8192]),
    ("shape", [1, 4, BIG]),
    ("shape", [1, 4, 4.5]),
    ("state_shape", [1, 8, 8]),
    ("classes", ["a", "a"]),
    ("classes", "abc"),
    ("classes", ["x" * 201]),
    ("classes", [str(i) for i in range(10_001)]),
    ("classes", [None]),
    ("latent", -1),
    ("latent", 10**6),
    ("noise_schedule", {}),
    ("noise_schedule", []),
    ("noise_schedule", {"alphas_cumprod": []}),
    ("noise_schedule", {"alphas_cumprod": 0.5}),
    ("noise_schedule", {"alphas_cumprod": ["a", "b"]}),
    ("noise_schedule", {"alphas_cumprod": [0.1, 0.9]}),
    ("noise_schedule", {"alphas_cumprod": [0.9, 0.9]}),
    ("noise_schedule", {"alphas_cumprod": [2.0, 0.5]}),
    ("noise_schedule", {"alphas_cumprod": [0.9, -0.1]}),
    ("noise_schedule", {"alphas_cumprod": [0.9, float("nan")]}),
    ("noise_schedule", {"alphas_cumprod": [[0.9], [0.1]]}),
    ("noise_schedule", {"alphas_cumprod": [0.9, 0.1], "clip": -1.0}),
    ("noise_schedule", {"alphas_cumprod": [0.9, 0.1], "clip": "wide"}),
    ("recommended_steps", 0),
    ("recommended_steps", 1001),
    ("recommended_steps", True),
    ("opset", "twenty"),
    ("dtype", "float16"),
    ("files", {}),
    ("files", {STEP: {"sha256": DIGEST, "bytes": 2}}),
    ("files", {STEP: "abc"}),
    ("files", {"../step.onnx": {"sha256": DIGEST, "bytes": 2}}),
    ("files", {"/etc/passwd": {"sha256": DIGEST, "bytes": 2}}),
    ("parity", None),
    ("checkpoint", 3),
    ("guidance", "yes"),
    ("surprise", 1),
    ("measured", []),
    ("measured.points", [{}]),
    ("measured.points", {"a": 1}),
    ("measured.points.0.steps", 1001),
    ("measured.points.0.steps", "4"),
    ("measured.points.0.solver", "unheard-of"),
    ("measured.points.0.settings", {"n": 1e8}),
    ("measured.points.0.settings", {"eta": 2.0}),
    ("measured.points.0.alone_ms", "fast"),
    ("measured.points.0.alone_ms", -1.0),
    ("measured.points.0.frechet_distance", float("inf")),
    ("measured.points.0.recall", 2.0),
    ("measured.machine", {"a": "b"}),
]
TEXTS = {
    "empty": "",
    "cut off": '{"format_version": 1, ',
    "null": "null",
    "no UTF-8": "\udcff",
    "deep": "[" * 200_000,
    "long number": f'{{"format_version": {"1" * 100_000}}}',
    "twice": '{"format_version": 1, "format_version": 1}',
    "large": f'{{"format_version": 1, "name": "{"a" * (17 * 2**20)}"}}',
}


def refusal(folder: Path, text: str) -> str:
    """Why the bundle is refused with this manifest, beside a good one that is loaded."""
    (folder / MANIFEST).write_bytes(text.encode(errors="surrogateescape"))
    bundles, failed = load_all(folder.parent)
    assert set(bundles) == {"beside"}
    (reason,) = failed.values()
    assert reason.startswith(f"{folder.name}/")
    assert str(folder.parent) not in reason
    assert len(reason) < 600
    return reason


@pytest.mark.parametrize(("where", "value"), PLACES, ids=lambda part: str(part)[:40])
def test_a_field_that_cannot_be_meant_is_refused(tmp_path: Path, where: str, value: Any) -> None:
    good(tmp_path / "beside", name="beside")
    refusal(tmp_path / "bad", changed(good(tmp_path / "bad"), where, value))


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_what_is_no_manifest_at_all_is_refused(tmp_path: Path, text: str) -> None:
    good(tmp_path / "beside", name="beside")
    good(tmp_path / "bad")
    refusal(tmp_path / "bad", text)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=300)
@given(st.data())
def test_whatever_stands_in_a_manifest_it_is_loaded_or_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("any") / "any"
    manifest = good(folder)
    for _ in range(data.draw(st.integers(1, 3))):
        place: Any = manifest
        while True:
            key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            if isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
                place = place[key]
                continue
            place[key] = data.draw(values)
            break
    (folder / MANIFEST).write_text(json.dumps(manifest))
    bundles, failed = load_all(folder.parent)
    assert len(bundles) + len(failed) == 1
    assert all(reason.startswith(f"{folder.name}/") for reason in failed.values())
    for bundle in bundles.values():
        for name, solver in bundle.family.SOLVERS.items():
            assert len(bundle.coefficients(bundle.max_steps, name, solver.defaults)) >= 1
