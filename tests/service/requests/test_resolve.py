"""What a request comes to on a model: defaults, classes, settings, and what the model cannot do."""

from typing import Any

import pytest

from bundle.loading import Bundle
from service.engine.placement import Placement
from service.errors import InvalidRequest
from service.requests.request import GenerateRequest
from service.requests.resolve import Sampling, resolve

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
        ({"solver": "euler"}, "solver", ["ddim", "dpmpp_2m"]),
        ({"class_label": 3}, "class_label", CLASSES),
        ({"class_label": -1}, "class_label", CLASSES),
        ({"class_label": "seven"}, "class_label", CLASSES),
        ({"solver": "dpmpp_2m", "eta": 0.0}, "eta", None),
        ({"settings": {"eta": 1.5}}, "settings.eta", {"min": 0.0, "max": 1.0}),
        ({"settings": {"step_size": 0.5}}, "settings.step_size", ["eta"]),
        ({"settings": {"eta": 0.5}, "eta": 0.4}, "eta", None),
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
