"""`"method": "auto"`: the measured operating point that suits a request best, whichever model it is of."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from bundle.manifest import AUTO
from models.solvers import SettingValues
from service.engine.placement import Placement
from service.errors import FieldError, InvalidRequest
from service.requests.request import GenerateRequest
from service.requests.resolve import has_class

LIMITS = ("max_ms", "max_distance")
AUTO_ONLY = (*LIMITS, "dataset")
CHOSEN = ("steps", "solver", "settings", "eta")  # fields that `auto` fills in


class OperatingPoint(NamedTuple):
    """A way of sampling a model, and what was measured of it."""

    method: str
    dataset: str  # distances compare within one data set only
    steps: int
    solver: str
    settings: SettingValues
    ms: float  # latency of one image alone
    distance: float  # Fréchet distance to the data set, without guidance
    judge: str = ""  # the classifier that the distance is by


def operating_points(models: Iterable[Placement], request: GenerateRequest) -> list[OperatingPoint]:
    """Every measured point of those models that have the request's class, and take guidance if it has some.

    Points are measured without guidance. With it an image has two rows, and so is expected to take twice as long.
    """
    guided = request.guidance != 1
    return [
        OperatingPoint(
            model.name,
            model.bundle.dataset,
            point.steps,
            point.solver,
            tuple(point.settings.items()),
            point.alone_ms * (2 if guided else 1),
            point.frechet_distance,
            model.bundle.manifest.judge,
        )
        for model in models
        if has_class(model.bundle, request.class_label) and (model.bundle.manifest.guidance or not guided)
        for point in model.bundle.manifest.measured.points
    ]


def choose(
    request: GenerateRequest, points: Sequence[OperatingPoint], can_promise: Callable[[GenerateRequest], bool]
) -> tuple[GenerateRequest, str | None]:
    """The request with `auto` replaced by a concrete point, and a sentence that says which and why.

    With `max_ms`, which becomes the deadline: the smallest distance within that time. With `max_distance`: the fastest
    point within that distance. A point that cannot be promised now is passed over; if none can, it is the fastest, for
    the engine to refuse. Any other request comes back as it is, with None. Raises InvalidRequest.
    """
    limits = [name for name in LIMITS if getattr(request, name) is not None]
    if request.method != AUTO:
        named = [name for name in AUTO_ONLY if getattr(request, name) is not None]
        _refuse(named, f"only method {AUTO!r} takes it")
        return request, None
    _refuse([name for name in CHOSEN if getattr(request, name) is not None], f"method {AUTO!r} chooses it")
    if len(limits) != 1:
        _refuse(limits or LIMITS, f"method {AUTO!r} takes one of {' and '.join(LIMITS)}")
    guided = request.guidance != 1
    if not points and guided:
        _refuse(["guidance"], f"no model is measured that takes guidance and {AUTO!r} could choose, for this class")
    if not points:
        _refuse(["method"], f"nothing is measured that {AUTO!r} could choose from, for this class")
    points = _of_one_dataset(points, request.dataset)
    if request.max_ms is not None:
        within, ranked = _within_time(points, request.max_ms)
    else:
        assert request.max_distance is not None
        within, ranked = _within_distance(points, request.max_distance)
    choice = _first_promised(ranked, lambda point: can_promise(_concrete(request, point)))
    return _concrete(request, choice), f"{_describe(choice, guided)}; the best of {within} that can be promised"


def pareto_front(points: Iterable[OperatingPoint]) -> list[OperatingPoint]:
    """The points for which no other is both faster and nearer to the data; the nearest first."""
    front: list[OperatingPoint] = []
    for point in sorted(points, key=lambda point: (point.distance, point.ms)):
        if not front or point.ms < front[-1].ms:
            front.append(point)
    return front


def _first_promised(ranked: Sequence[OperatingPoint], can_promise: Callable[[OperatingPoint], bool]) -> OperatingPoint:
    """The best ranked point that can be promised, or the fastest if that cannot be: then none can.

    To ask takes as long as the queue is long, so it is asked for few: a faster point can be promised if a slower can.
    """
    if can_promise(ranked[0]):
        return ranked[0]
    fastest, *slower = sorted(ranked, key=lambda point: point.ms)
    if fastest is ranked[0] or not can_promise(fastest):
        return fastest
    return [fastest, *slower][bisect_left(slower, True, key=lambda point: not can_promise(point))]


def _of_one_dataset(points: Sequence[OperatingPoint], dataset: str | None) -> list[OperatingPoint]:
    """The points of the data set that the request names, or of the only one there is. Raises InvalidRequest."""
    names = sorted({point.dataset for point in points})
    if dataset is None and len(names) > 1:
        _refuse(["dataset"], "models of several data sets could answer; name one", names)
    if dataset is not None and dataset not in names:
        _refuse(["dataset"], "no measured model is of it, for this class", names)
    points = [point for point in points if dataset in (None, point.dataset)]
    if len({point.judge for point in points}) > 1:
        _refuse(["dataset"], "its models were measured by different classifiers, whose distances cannot be compared")
    return points


def _within_time(points: Sequence[OperatingPoint], max_ms: float) -> tuple[str, list[OperatingPoint]]:
    """The points within the limit in words, and those of their Pareto front, the nearest to the data first."""
    within = [point for point in points if point.ms <= max_ms]
    if not within:
        _refuse(["max_ms"], "no measured point is within it", {"min": min(point.ms for point in points)})
    return f"{len(within)} measured points with max_ms = {max_ms:g}", pareto_front(within)


def _within_distance(points: Sequence[OperatingPoint], max_distance: float) -> tuple[str, list[OperatingPoint]]:
    """The points within the limit in words, and those of their Pareto front, the fastest first."""
    within = [point for point in points if point.distance <= max_distance]
    if not within:
        _refuse(["max_distance"], "no measured point is within it", {"min": min(point.distance for point in points)})
    return f"{len(within)} measured points with max_distance = {max_distance:g}", pareto_front(within)[::-1]


def _concrete(request: GenerateRequest, point: OperatingPoint) -> GenerateRequest:
    chosen: dict[str, Any] = {
        "method": point.method,
        "steps": point.steps,
        "solver": point.solver,
        "settings": dict(point.settings),
    }
    limits_ms = [ms for ms in (request.deadline_ms, request.max_ms) if ms is not None]
    if limits_ms:
        chosen["deadline_ms"] = max(1, int(min(limits_ms)))
    return request.model_copy(update={**chosen, **dict.fromkeys(AUTO_ONLY)})


def _describe(point: OperatingPoint, guided: bool) -> str:
    settings = "".join(f", {name} = {value:g}" for name, value in point.settings)
    way = f"{point.method}, {point.steps} steps, solver {point.solver}{settings}"
    measured = " without guidance" if guided else ""
    return f"{way}: distance {point.distance:g}{measured}, {point.ms:g} ms"


def _refuse(fields: Iterable[str], detail: str, allowed: Any = None) -> None:
    """Raises InvalidRequest for these fields, if there are any."""
    errors = [FieldError(field=field, detail=detail, allowed=allowed) for field in fields]
    if errors:
        raise InvalidRequest(errors)
