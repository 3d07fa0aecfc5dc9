"""From a request to what it comes to on a model: its limits checked, its defaults filled in, its job made."""

import math
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from bundle.loading import Bundle
from models.inversion import begun_at
from models.solvers import Setting, SettingValues
from service.engine.jobs import Job
from service.engine.placement import Placement
from service.engine.start import Picture
from service.errors import InvalidRequest
from service.requests import beginnings
from service.requests.request import GenerateRequest
from service.requests.uploads import NONE, Uploads

MAX_ANSWER_SHARE = 0.1  # of a deadline, for encoding and sending the answer
MAX_NAMES = 50  # of classes in a refusal; `GET /methods` has all of them
DRAWN_SEEDS = 2**53  # a drawn seed is below it: JavaScript's numbers are exact up to there, and JSON is read into them


Absent: Any = Field(None, exclude_if=lambda value: value is None)


class Sampling(BaseModel):
    """What a request comes to on a model, its defaults filled in: with the digest, all that decides the images.

    Its JSON is part of every ETag: what is added to it stays out of the JSON where it has its default.
    """

    model_config = ConfigDict(frozen=True)

    digest: str
    method: str
    steps: int
    solver: str
    settings: SettingValues
    label: int
    seed: int
    n: int
    index: int = Field(0, exclude_if=lambda index: index == 0)  # of the first image
    guidance: float = Field(1.0, exclude_if=lambda weight: weight == 1)  # 1: without
    inverts: bool = Field(False, exclude_if=lambda inverts: not inverts)  # from an image to x_T
    image: str | None = Absent  # digests of the arrays of `Uploads`
    mask: str | None = Absent
    noise: str | None = Absent
    to_noise: str | None = Absent
    strength: float | None = Absent
    to_seed: int | None = Absent


def resolve(
    model: Placement, request: GenerateRequest, served: Iterable[Placement] = (), uploads: Uploads = NONE
) -> Sampling:
    """Checks a request against the model's limits and fills in its defaults. Raises InvalidRequest.

    A refusal names those of the `served` models that can do what this one cannot.
    """
    bundle = model.bundle
    name = bundle.manifest.name
    solver, steps = _way(bundle, request)
    return Sampling(
        digest=model.digest,
        method=name,
        steps=steps,
        solver=solver,
        settings=_settings(solver, bundle.solvers[solver].settings, request),
        label=label_of(bundle, request.class_label),
        seed=secrets.randbelow(DRAWN_SEEDS) if request.seed is None else request.seed,
        n=request.n,
        index=request.index,
        guidance=_guidance(bundle, request, served),
        **beginnings.resolve(bundle, request, uploads),
    )


def _way(bundle: Bundle, request: GenerateRequest) -> tuple[str, int]:
    """The solver and the steps. Raises InvalidRequest for an unknown solver, and for steps that it does not take."""
    name = bundle.manifest.name
    own = (request.steps, request.solver, request.settings, request.eta)
    if all(field is None for field in (*own, request.image, request.noise)):  # /invert's noise is of the first solver
        return bundle.default.solver, bundle.default.steps
    solver = bundle.default_solver if request.solver is None else request.solver
    if request.steps is not None and request.steps > bundle.max_steps:
        detail = f"{name} takes at most {bundle.max_steps}"
        raise InvalidRequest.of("steps", detail, {"min": 1, "max": bundle.max_steps})
    if solver not in bundle.solvers:
        raise InvalidRequest.of("solver", f"{name} has no solver {solver!r}", list(bundle.solvers))
    steps = bundle.default_steps(solver) if request.steps is None else request.steps
    allowed = bundle.solvers[solver].steps
    if allowed and steps not in allowed:
        raise InvalidRequest.of("steps", f"solver {solver!r} of {name} has no plan of {steps} steps", list(allowed))
    return solver, steps


def job_of(
    model: Placement,
    sampling: Sampling,
    request: GenerateRequest,
    uploads: Uploads = NONE,
    *,
    id: str,
    submitted_s: float,
    answer_s: float,
) -> Job:
    """The engine's work for a resolved request. `answer_s` is how long an answer takes after the last step."""
    manifest = model.bundle.manifest
    return Job(
        id=id,
        method=sampling.method,
        model=model.digest,
        **_plan(model.bundle, sampling, uploads),
        shape=manifest.state_shape,
        z_dim=manifest.z_dim,
        label=sampling.label,
        seed=sampling.seed,
        n=sampling.n,
        first_index=sampling.index,
        starts=tuple(start for start in (uploads.noise, uploads.to_noise) if start is not None),
        to_seed=sampling.to_seed,
        guidance=sampling.guidance,
        no_label=len(manifest.classes),
        submitted_s=submitted_s,
        priority=request.priority,
        deadline_s=deadline_s(request.deadline_ms, submitted_s, answer_s),
        preview_every=request.preview_every or 0,
    )


def deadline_s(deadline_ms: int | None, submitted_s: float, answer_s: float) -> float:
    """When a request's last step must be done.

    At most MAX_ANSWER_SHARE of the time is kept for the answer: if it were all of it, every request would be refused,
    and nothing would show that answers have become quicker.
    """
    within_s = math.inf if deadline_ms is None else deadline_ms / 1000
    return submitted_s + within_s - min(answer_s, MAX_ANSWER_SHARE * within_s)


def _plan(bundle: Bundle, sampling: Sampling, uploads: Uploads) -> dict[str, Any]:
    """The steps of a job, and the picture that they begin at."""
    picture = None if uploads.image is None else Picture(uploads.image, uploads.mask)
    if sampling.inverts:
        coefficients = bundle.inverse_coefficients(sampling.steps)
        signal = np.array([[1, 0]], dtype=np.float32)  # it begins at the picture itself
        return {"coefficients": coefficients, "picture": picture, "signal": signal, "decodes": False}
    coefficients = bundle.coefficients(sampling.steps, sampling.solver, sampling.settings)
    if picture is None or sampling.strength is None:
        return {"coefficients": coefficients}
    first = len(coefficients) - max(1, round(sampling.strength * len(coefficients)))
    signal = bundle.signal(sampling.steps, sampling.solver, sampling.settings)[first:]
    return {"coefficients": begun_at(coefficients, first), "picture": picture, "signal": signal}


def has_class(bundle: Bundle, class_label: int | str | None) -> bool:
    try:
        label_of(bundle, class_label)
    except InvalidRequest:
        return False
    return True


def label_of(bundle: Bundle, class_label: int | str | None) -> int:
    """The number of a class: an integer is the number itself, a string first of all a name, then a number in digits."""
    classes = bundle.manifest.classes
    if class_label is None:
        return len(classes)
    if not classes:
        raise InvalidRequest.of("class_label", f"{bundle.manifest.name} has no classes", None)
    numbers = range(len(classes))
    spellings: list[Sequence[int | str]] = [numbers, classes, [str(number) for number in numbers]]
    for labels in spellings:
        if class_label in labels:
            return labels.index(class_label)
    raise InvalidRequest.of("class_label", f"{bundle.manifest.name} has no class {class_label!r}", _labels(classes))


def _labels(classes: list[str]) -> dict[str, Any]:
    """What a class's label may be, for a refusal; of many names the first."""
    return {"min": 0, "max": len(classes) - 1, "names": classes[:MAX_NAMES]}


def _guidance(bundle: Bundle, request: GenerateRequest, served: Iterable[Placement]) -> float:
    """The weight of guidance. Raises InvalidRequest where the model takes none, or where there is no class.

    Guidance leads from no class to a class. Without one, its two rows would be the same: twice the work for nothing.
    """
    if request.guidance == 1:
        return 1.0
    manifest = bundle.manifest
    if not manifest.guidance:
        names = [model.name for model in served if model.bundle.manifest.guidance]
        raise InvalidRequest.of("guidance", f"{manifest.name} takes no guidance", {"min": 1, "max": 1, "models": names})
    if request.class_label is None:
        raise InvalidRequest.of("class_label", "guidance needs a class", _labels(manifest.classes))
    return request.guidance + 0.0  # makes 0 of −0


def _settings(solver: str, settings: Mapping[str, Setting], request: GenerateRequest) -> SettingValues:
    """The solver's settings, the request's values over the defaults. Raises InvalidRequest naming the field."""
    fields = {name: f"settings.{name}" for name in request.settings or {}}
    values = dict(request.settings or {})
    if request.eta is not None:
        if values.get("eta", request.eta) != request.eta:
            raise InvalidRequest.of("eta", f"settings.eta is {values['eta']}", None)
        fields["eta"], values["eta"] = "eta", request.eta
    for name, value in values.items():
        if name not in settings:
            raise InvalidRequest.of(fields[name], f"solver {solver!r} takes no {name}", list(settings) or None)
        low, high = settings[name].low, settings[name].high
        if not low <= value <= high:
            raise InvalidRequest.of(fields[name], f"{value} is outside", {"min": low, "max": high})
    # Adding 0 makes 0 of −0, which would be another request with the same images.
    return tuple((name, values.get(name, setting.default) + 0.0) for name, setting in settings.items())
