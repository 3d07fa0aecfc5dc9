"""Whether a manifest's model can be sampled as the manifest says."""

import numpy as np

from bundle.manifest import AUTO, DECODE, STEP, Manifest, MeasuredPoint
from models import families
from models.families import Family

MAX_STEPS = 100_000


def check_sampling(manifest: Manifest) -> None:
    """Raises ValueError, or what a family's plans raise, unless the model can be sampled as the manifest says."""
    if manifest.name == AUTO:
        raise ValueError(f"the name {AUTO!r} is taken: with it callers let the service choose")
    if STEP not in manifest.files:
        raise ValueError(f"files: it lists no {STEP}")
    if manifest.state_shape != manifest.shape and DECODE not in manifest.files:
        raise ValueError(f"files: a state_shape that is not the images' shape needs {DECODE}")
    if manifest.family not in families.names():
        raise ValueError(f"family {manifest.family!r} is unknown; known: {', '.join(families.names())}")
    family, schedule = families.find(manifest.family), manifest.noise_schedule
    max_steps = family.max_steps(schedule)
    if not manifest.recommended_steps <= max_steps <= MAX_STEPS:
        raise ValueError(f"the schedule has {max_steps} steps: from recommended_steps to {MAX_STEPS} are allowed")
    with np.errstate(all="ignore"):  # a plan refuses what is not finite
        for solver in families.solvers(manifest.family, schedule).values():
            for steps in {1, max_steps}:
                solver.plan(schedule, steps, **dict(solver.defaults))
    for point in manifest.measured.points:
        check_point(point, family, max_steps)


def check_point(point: MeasuredPoint, family: Family, max_steps: int) -> None:
    """Raises ValueError unless the family can sample so."""
    if point.solver not in family.SOLVERS:
        raise ValueError(f"measured: there is no solver {point.solver!r}")
    if point.steps > max_steps:
        raise ValueError(f"measured: {point.steps} steps, of at most {max_steps}")
    settings = family.SOLVERS[point.solver].settings
    for name, value in point.settings.items():
        if name not in settings or not settings[name].low <= value <= settings[name].high:
            raise ValueError(f"measured: {point.solver} does not take {name} = {value}")
