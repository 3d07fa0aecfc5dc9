"""`"method": "auto"`: the measured point that suits a request best, whichever model it is of."""

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from service.bundle import AUTO, Bundle
from service.errors import FieldError, InvalidRequest
from service.schemas import GenerateRequest

LIMITS = {"max_ms": ("ms", "distance"), "max_distance": ("distance", "ms")}  # of what, and what is then best
CHOSEN = ("steps", "solver", "eta")  # fields that `auto` fills in


class Point(NamedTuple):
    """A way of sampling a model, and what was measured of it: milliseconds for one image alone, Fréchet distance."""

    method: str
    steps: int
    solver: str
    settings: Mapping[str, float]
    ms: float
    distance: float


def points(bundles: Iterable[Bundle]) -> list[Point]:
    """Every measured point of these bundles."""
    return [
        Point(
            bundle.manifest.name,
            point["steps"],
            point["solver"],
            point["settings"],
            point["alone_ms"],
            point["frechet_distance"],
        )
        for bundle in bundles
        for point in bundle.manifest.measured.get("points", [])
    ]


def choose(request: GenerateRequest, measured: Sequence[Point]) -> tuple[GenerateRequest, str | None]:
    """The request with `auto` put into concrete terms, which and why; any other request as it is, and None.

    With max_ms the nearest to the data of the points within that time, with max_distance the fastest of those within
    that distance. Raises InvalidRequest naming the field and what it may be.
    """
    limits = {name: value for name in LIMITS if (value := getattr(request, name)) is not None}
    if request.method != AUTO:
        _refuse(limits, f"only method {AUTO!r} takes it")
        return request, None
    _refuse([name for name in CHOSEN if getattr(request, name) is not None], f"method {AUTO!r} chooses it")
    if len(limits) != 1:
        _refuse(limits or LIMITS, f"method {AUTO!r} takes one of {' and '.join(LIMITS)}")
    if not measured:
        _refuse(["method"], f"nothing is measured that {AUTO!r} could choose from")
    ((name, limit),) = limits.items()
    point, within = _best(measured, name, limit)
    settings = "".join(f", {key} = {value:g}" for key, value in point.settings.items())
    chosen = (
        f"{point.method}, {point.steps} steps, solver {point.solver}{settings}: distance {point.distance:g}, "
        f"{point.ms:g} ms; the best of {within} measured points with {name} = {limit:g}"
    )
    concrete = {"method": point.method, "steps": point.steps, "solver": point.solver, **point.settings}
    return request.model_copy(update={**concrete, **dict.fromkeys(LIMITS)}), chosen


def _best(measured: Sequence[Point], name: str, limit: float) -> tuple[Point, int]:
    """The point that is best in the other respect of those within a limit, and how many those are."""
    limited, wanted = (attrgetter(field) for field in LIMITS[name])
    within = [point for point in measured if limited(point) <= limit]
    if not within:
        _refuse([name], "no measured point is within it", {"min": min(map(limited, measured))})
    return min(within, key=lambda point: (wanted(point), limited(point))), len(within)


def _refuse(fields: Iterable[str], detail: str, allowed: Any = None) -> None:
    """Raises InvalidRequest for these fields, if there are any."""
    errors = [FieldError(field=field, detail=detail, allowed=allowed) for field in fields]
    if errors:
        raise InvalidRequest(errors)
