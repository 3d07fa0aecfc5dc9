"""`./run fit BUNDLE`: from the teacher's images to plans in the bundle's manifest."""

from collections.abc import Iterator

from tqdm import tqdm

from bundle.loading import Bundle, load
from fit.options import Settings
from fit.study import Study
from models import fitted
from models.step import Plan


def fit(settings: Settings) -> None:
    """Fits a plan for each number of steps, and stores it at once if it wins. Raises BundleError and FitError."""
    study = Study(settings)
    total = sum(study.evaluations(steps) for steps in settings.steps)
    with tqdm(total=total, unit="run", smoothing=0.05) as bar:
        for steps in settings.steps:
            plan = study.fitted_plan(steps, bar.update)
            distance = study.held_out_distance(plan)
            others = {name: study.held_out_distance(other) for name, other in others_of(study.bundle, steps)}
            best = min(others, key=lambda name: others[name])
            if wins := distance < others[best]:
                store(settings, plan)
            verdict = "stored" if wins else "not stored"
            bar.write(f"{steps} steps: distance {distance:.1f}; {others[best]:.1f} by {best}; {verdict}")


def others_of(bundle: Bundle, steps: int) -> Iterator[tuple[str, Plan]]:
    """Every other way of sampling with as many evaluations, at both ends of its settings."""
    for name, solver in bundle.solvers.items():
        for values in {tuple(getattr(s, end) for s in solver.settings.values()) for end in ("low", "high")}:
            settings = dict(zip(solver.settings, values, strict=True))
            for asked in () if name == fitted.NAME else {steps, (steps + 1) // 2}:  # Heun takes two a step
                plan = solver.plan(bundle.manifest.noise_schedule, asked, **settings)
                if len(plan) == steps:
                    yield " ".join([name, *(f"{key}={value:g}" for key, value in settings.items())]), plan


def store(settings: Settings, plan: Plan) -> None:
    """Writes the plan into the manifest as it is by now, without what was measured of another in its place."""
    manifest = load(settings.bundle).manifest
    manifest.noise_schedule = fitted.with_plan(manifest.noise_schedule, plan)
    replaced = fitted.NAME, len(plan)
    manifest.measured.points = [p for p in manifest.measured.points if (p.solver, p.steps) != replaced]
    if manifest.default is not None and (manifest.default.solver, manifest.default.steps) == replaced:
        manifest.default = None
    manifest.write(settings.bundle)
