"""`./run fit BUNDLE`: from the teacher's images to plans in the bundle's manifest."""

from bundle.loading import load
from fit.options import Settings
from fit.study import Study
from models import fitted
from models.step import Plan


def fit(settings: Settings) -> None:
    """Fits a plan for each number of steps, and stores it at once if it wins. Raises BundleError and FitError."""
    study = Study(settings)
    for steps in settings.steps:
        plan = study.fitted_plan(steps)
        distance = study.held_out_distance(plan)
        others = {name: study.held_out_distance(other) for name, other in study.others(steps)}
        best = min(others, key=lambda name: others[name])
        if wins := distance < others[best]:
            store(settings, plan)
        verdict = "stored" if wins else "not stored"
        print(f"{steps} steps: distance {distance:.4f}; {others[best]:.4f} by {best}; {verdict}", flush=True)


def store(settings: Settings, plan: Plan) -> None:
    """Writes the plan into the manifest as it is by now, without what was measured of another in its place."""
    manifest = load(settings.bundle).manifest
    manifest.noise_schedule = fitted.with_plan(manifest.noise_schedule, plan)
    replaced = fitted.NAME, len(plan)
    manifest.measured.points = [p for p in manifest.measured.points if (p.solver, p.steps) != replaced]
    if manifest.default is not None and (manifest.default.solver, manifest.default.steps) == replaced:
        manifest.default = None
    manifest.write(settings.bundle)
