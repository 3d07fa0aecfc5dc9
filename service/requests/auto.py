"""`"method": "auto"`: the measured point that suits a request best, whichever model it is of."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from bundle.manifest import AUTO, Bundle
from service.errors import FieldError, InvalidRequest
from service.http.schemas import GenerateRequest

LIMITS = {"max_ms": ("ms", "distance"), "max_distance": ("distance", "ms")}  # of what, and what is then best
CHOSEN = ("steps", "solver", "eta")  # fields that `auto` fills in


class Point(NamedTuple):
    """A way of sampling a model, and what was measured of it: milliseconds for one image alone, Fréchet distance."""

    method: str
    steps: int
    solver: str
    settings: tuple[tuple[str, float], ...]
    ms: float
    distance: float


def points(bundles: Iterable[Bundle]) -> list[Point]:
    """Every measured point of these bundles."""
    return [
        Point(
            bundle.manifest.name,
            point["steps"],
            point["solver"],
            tuple(point["settings"].items()),
            point["alone_ms"],
            point["frechet_distance"],
        )
        for bundle in bundles
        for point in bundle.manifest.measured.get("points", [])
    ]


def choose(
    request: GenerateRequest, measured: Sequence[Point], promised: Callable[[GenerateRequest], bool]
) -> tuple[GenerateRequest, str | None]:
    """The request with `auto` put into concrete terms, which and why; any other request as it is, and None.

    With max_ms the nearest to the data of the points within that time, which becomes the deadline; with max_distance
    the fastest of those within that distance. One that is not `promised`, for what is queued, gives way to the next
    best; where none is, it is the fastest, for the engine to refuse. Raises InvalidRequest naming the field and what it
    may be.
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
    limited, wanted = (attrgetter(field) for field in LIMITS[name])
    within = sorted((point for point in measured if limited(point) <= limit), key=lambda p: (wanted(p), limited(p)))
    if not within:
        _refuse([name], "no measured point is within it", {"min": min(map(limited, measured))})
    requests = {point: _concrete(request, point) for point in _undominated(within, limited)}
    chosen = next((point for point, each in requests.items() if promised(each)), min(requests, key=attrgetter("ms")))
    settings = "".join(f", {key} = {value:g}" for key, value in chosen.settings)
    return requests[chosen], (
        f"{chosen.method}, {chosen.steps} steps, solver {chosen.solver}{settings}: distance {chosen.distance:g}, "
        f"{chosen.ms:g} ms; the best of {len(within)} measured points with {name} = {limit:g} that can be promised"
    )


def _undominated(ranked: Iterable[Point], limited: Callable[[Point], float]) -> Iterator[Point]:
    """Of points from the best to the worst in one respect, those that are better in the other than all before."""
    least = math.inf
    for point in ranked:
        if limited(point) < least:
            least = limited(point)
            yield point


def _concrete(request: GenerateRequest, point: Point) -> GenerateRequest:
    chosen = {"method": point.method, "steps": point.steps, "solver": point.solver, **dict(point.settings)}
    within_ms = [ms for ms in (request.deadline_ms, request.max_ms) if ms is not None]
    if within_ms:
        chosen["deadline_ms"] = max(1, int(min(within_ms)))
    return request.model_copy(update={**chosen, **dict.fromkeys(LIMITS)})


def _refuse(fields: Iterable[str], detail: str, allowed: Any = None) -> None:
    """Raises InvalidRequest for these fields, if there are any."""
    errors = [FieldError(field=field, detail=detail, allowed=allowed) for field in fields]
    if errors:
        raise InvalidRequest(errors)
