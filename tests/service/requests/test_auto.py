"""Method `auto` takes the measured point that is best within the limit, says which, and changes nothing else."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from service.errors import InvalidRequest
from service.requests.auto import OperatingPoint, choose
from service.requests.request import GenerateRequest

SLOW = OperatingPoint("ddim", "digits", 50, "ddim", (("eta", 1.0),), ms=100, distance=2)
MIDDLING = OperatingPoint("ddim", "digits", 20, "ddim", (("eta", 0.0),), ms=40, distance=3)
FAST = OperatingPoint("ddgan", "digits", 4, "posterior", (), ms=10, distance=5)
WORSE = OperatingPoint("ddim", "digits", 10, "dpmpp_2m", (), ms=20, distance=8)
MEASURED = [SLOW, WORSE, FAST, MIDDLING]


def idle(request: GenerateRequest) -> bool:
    return True


@pytest.mark.parametrize(
    ("limit", "point"),
    [
        ({"max_ms": 100}, SLOW),
        ({"max_ms": 99.9}, MIDDLING),
        ({"max_ms": 39.9}, FAST),
        ({"max_ms": 10}, FAST),
        ({"max_distance": 9}, FAST),
        ({"max_distance": 4.9}, MIDDLING),
        ({"max_distance": 2.9}, SLOW),
    ],
)
def test_auto_takes_the_best_point_within_the_limit(limit: dict[str, float], point: OperatingPoint) -> None:
    request, chosen = choose(GenerateRequest(method="auto", seed=7, class_label=3, n=2, **limit), MEASURED, idle)
    deadline = {"deadline_ms": int(limit["max_ms"])} if "max_ms" in limit else {}
    assert request == GenerateRequest(
        method=point.method,
        steps=point.steps,
        solver=point.solver,
        seed=7,
        class_label=3,
        n=2,
        settings=dict(point.settings),
        **deadline,
    )
    assert chosen is not None
    assert chosen.startswith(f"{point.method}, {point.steps} steps, solver {point.solver}")
    assert f"distance {point.distance:g}, {point.ms:g} ms" in chosen


@pytest.mark.parametrize(
    ("limit", "steps", "point"),
    [
        ({"max_ms": 100}, 50, SLOW),
        ({"max_ms": 100}, 49, MIDDLING),
        ({"max_ms": 100}, 19, FAST),  # not WORSE, which is slower and farther
        ({"max_ms": 100}, 3, FAST),
        ({"max_distance": 6}, 19, FAST),
        ({"max_distance": 4}, 3, MIDDLING),
    ],
)
def test_what_cannot_be_promised_gives_way_to_the_next_best_and_in_the_end_to_the_fastest(
    limit: dict[str, float], steps: int, point: OperatingPoint
) -> None:
    def promised(asked: GenerateRequest) -> bool:
        return asked.steps is not None and asked.steps <= steps

    request, _ = choose(GenerateRequest(method="auto", **limit), MEASURED, promised)
    assert (request.method, request.steps) == (point.method, point.steps)


@pytest.mark.parametrize("limit", ["max_ms", "max_distance"])
@pytest.mark.parametrize("promised", range(0, 1001, 50))
def test_it_is_asked_of_few_points_whether_they_can_be_promised(limit: str, promised: int) -> None:
    points = [
        OperatingPoint("ddim", "digits", steps, "ddim", (), ms=steps, distance=2000 - steps) for steps in range(1, 1001)
    ]
    asked: list[int] = []

    def can_promise(request: GenerateRequest) -> bool:
        asked.append(request.steps or 0)
        return asked[-1] <= promised

    request, _ = choose(GenerateRequest.model_validate({"method": "auto", limit: 2000}), points, can_promise)
    assert request.steps == (max(1, promised) if limit == "max_ms" else 1)
    assert len(asked) <= 12


def test_the_sooner_of_two_deadlines_holds() -> None:
    for deadline_ms, soonest in ((60, 60), (200, 100)):
        request, _ = choose(GenerateRequest(method="auto", max_ms=100.9, deadline_ms=deadline_ms), MEASURED, idle)
        assert request.deadline_ms == soonest


def test_a_request_that_names_its_method_is_never_changed() -> None:
    request = GenerateRequest(method="ddim", steps=3, seed=1)
    assert choose(request, MEASURED, idle) == (request, None)


@pytest.mark.parametrize(
    ("fields", "named", "allowed"),
    [
        ({"method": "auto"}, ["max_ms", "max_distance"], None),
        ({"method": "auto", "max_ms": 5, "max_distance": 5}, ["max_ms", "max_distance"], None),
        ({"method": "auto", "max_ms": 9}, ["max_ms"], {"min": 10}),
        ({"method": "auto", "max_distance": 1}, ["max_distance"], {"min": 2}),
        ({"method": "auto", "max_ms": 50, "steps": 4, "eta": 1.0}, ["steps", "eta"], None),
        ({"method": "ddim", "max_ms": 50}, ["max_ms"], None),
        ({"method": "ddim", "dataset": "digits"}, ["dataset"], None),
        ({"method": "auto", "max_ms": 50, "dataset": "ships"}, ["dataset"], ["digits"]),
    ],
)
def test_a_contradiction_is_refused_by_the_names_of_its_fields(
    fields: dict[str, object], named: list[str], allowed: object
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        choose(GenerateRequest.model_validate(fields), MEASURED, idle)
    errors = refused.value.extra["errors"]
    assert [error["field"] for error in errors] == named
    assert all(error["allowed"] == allowed for error in errors)


def test_without_a_measured_point_auto_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="nothing is measured"):
        choose(GenerateRequest(method="auto", max_ms=5), [], idle)


def test_distances_by_two_classifiers_are_not_compared() -> None:
    points = [*MEASURED, SLOW._replace(method="other", judge="another")]
    with pytest.raises(InvalidRequest, match="measured by different classifiers") as refused:
        choose(GenerateRequest(method="auto", max_ms=100), points, idle)
    assert [error.field for error in refused.value.errors] == ["dataset"]


positive = st.floats(0.1, 1000)
measured_points = st.lists(
    st.builds(
        OperatingPoint,
        st.just("a"),
        st.just("digits"),
        st.integers(1, 9),
        st.just("s"),
        st.just(()),
        positive,
        positive,
        st.just("judge"),
    ),
    min_size=1,
)


@given(measured_points, positive)
def test_the_choice_is_within_the_limit_and_no_other_point_within_it_is_better(
    points: list[OperatingPoint], limit: float
) -> None:
    assume(min(point.ms for point in points) <= limit)
    request, chosen = choose(GenerateRequest(method="auto", max_ms=limit), points, idle)
    least = min(point.distance for point in points if point.ms <= limit)
    assert chosen is not None
    assert f"distance {least:g}," in chosen
    assert any(point.steps == request.steps and point.distance == least and point.ms <= limit for point in points)


def test_points_of_several_data_sets_are_not_compared_and_the_request_names_one() -> None:
    ship = OperatingPoint("ships", "CIFAR-10", 5, "ddim", (), ms=50, distance=0.1)
    with pytest.raises(InvalidRequest) as refused:
        choose(GenerateRequest(method="auto", max_ms=100), [*MEASURED, ship], idle)
    (error,) = refused.value.errors
    assert (error.field, error.allowed) == ("dataset", ["CIFAR-10", "digits"])
    for name, method in (("digits", "ddim"), ("CIFAR-10", "ships")):
        request, _ = choose(GenerateRequest(method="auto", max_ms=100, dataset=name), [*MEASURED, ship], idle)
        assert (request.method, request.dataset) == (method, None)


def test_a_choice_with_guidance_keeps_it_and_says_that_the_distance_is_without() -> None:
    asked = GenerateRequest(method="auto", seed=7, class_label=3, guidance=2.5, max_ms=50)
    request, chosen = choose(asked, MEASURED, idle)
    assert (request.method, request.guidance) == ("ddim", 2.5)
    assert chosen is not None
    assert "distance 3 without guidance, 40 ms" in chosen
    with pytest.raises(InvalidRequest, match="guidance"):
        choose(asked, [], idle)
