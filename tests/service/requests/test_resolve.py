"""What a request comes to on a model: defaults, classes, settings, and what the model cannot do."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundle.loading import Bundle, load
from models.ddim.plan import SOLVERS
from service.engine.placement import Placement
from service.errors import InvalidRequest
from service.requests.encoding import RAW
from service.requests.etag import etag
from service.requests.request import MAX_GUIDANCE, GenerateRequest
from service.requests.resolve import Sampling, resolve
from tests.conftest import write_bundle

CLASSES = {"min": 0, "max": 2, "names": ["zero", "one", "2"]}


def sampling(toy: Bundle, **request: Any) -> Sampling:
    model = Placement(toy, "cpu", toy.manifest.digest)
    return resolve(model, GenerateRequest.model_validate({"method": "toy", **request}))


def test_defaults_are_the_models(toy: Bundle) -> None:
    resolved = sampling(toy)
    assert (resolved.steps, resolved.solver, resolved.settings, resolved.label) == (5, "ddim", (("eta", 0.0),), 3)
    assert 0 <= resolved.seed < 2**64
    assert sampling(toy).seed != resolved.seed


def test_a_class_is_found_by_name_before_number(toy: Bundle) -> None:
    assert [sampling(toy, class_label=label).label for label in ("one", 1, "2", 2, None)] == [1, 1, 2, 2, 3]


@pytest.mark.parametrize(
    ("request_", "field", "allowed"),
    [
        ({"steps": 1001}, "steps", {"min": 1, "max": 1000}),
        ({"solver": "euler"}, "solver", list(SOLVERS)),
        ({"class_label": 3}, "class_label", CLASSES),
        ({"class_label": -1}, "class_label", CLASSES),
        ({"class_label": "seven"}, "class_label", CLASSES),
        ({"solver": "dpmpp_2m", "eta": 0.0}, "eta", None),
        ({"settings": {"eta": 1.5}}, "settings.eta", {"min": 0.0, "max": 1.0}),
        ({"settings": {"step_size": 0.5}}, "settings.step_size", ["eta"]),
        ({"settings": {"eta": 0.5}, "eta": 0.4}, "eta", None),
        ({"guidance": 2.0, "class_label": 1}, "guidance", {"min": 1, "max": 1, "models": []}),
    ],
)
def test_what_the_model_cannot_do_is_refused_with_what_it_can(
    toy: Bundle, request_: dict[str, Any], field: str, allowed: Any
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        sampling(toy, **request_)
    (error,) = refused.value.extra["errors"]
    assert (error["field"], error["allowed"]) == (field, allowed)


def test_a_setting_is_the_same_by_its_own_field_and_among_the_settings(toy: Bundle) -> None:
    ways = [{"eta": 0.5}, {"settings": {"eta": 0.5}}, {"settings": {"eta": 0.5}, "eta": 0.5}]
    assert {sampling(toy, seed=1, **way).settings for way in ways} == {(("eta", 0.5),)}


# --- guidance ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guided(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return load(write_bundle(tmp_path_factory.mktemp("bundles") / "toy", guidance=True))


weights = st.floats(0, MAX_GUIDANCE) | st.sampled_from([0, -0.0, 1, 1.0, MAX_GUIDANCE])


@given(one=weights, other=weights)
def test_images_are_the_same_where_the_weights_are_and_a_weight_of_one_is_none(
    guided: Bundle, one: float, other: float
) -> None:
    first, second, without = (
        sampling(guided, seed=1, class_label=1, **fields)
        for fields in ({"guidance": one}, {"guidance": other}, dict[str, Any]())
    )
    assert (etag(first, RAW) == etag(second, RAW)) is (first == second) is (one == other)
    assert ("guidance" in first.model_dump()) is (first != without) is (one != 1)


def test_guidance_without_a_class_is_refused_and_a_weight_of_one_needs_neither(guided: Bundle, toy: Bundle) -> None:
    with pytest.raises(InvalidRequest) as refused:
        sampling(guided, guidance=2.0)
    (error,) = refused.value.extra["errors"]
    assert (error["field"], error["allowed"]) == ("class_label", CLASSES)
    assert {sampling(bundle, guidance=1.0).guidance for bundle in (guided, toy)} == {1}


def test_a_refusal_names_the_served_models_that_take_guidance(guided: Bundle, toy: Bundle, tmp_path: Path) -> None:
    other = load(write_bundle(tmp_path / "bundles" / "other", name="other", guidance=True))
    served = [Placement(bundle, "cpu", bundle.manifest.digest) for bundle in (toy, other, guided)]
    with pytest.raises(InvalidRequest) as refused:
        resolve(served[0], GenerateRequest(method="toy", guidance=2.0, class_label=1), served)
    (error,) = refused.value.extra["errors"]
    assert error["allowed"]["models"] == ["other", "toy"]
