"""What all plans of a model are fitted with: its sampler, its teacher's images, and a folder of unfinished work."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from bundle.loading import load
from fit.candidate import Candidate
from fit.features import features, trained
from fit.gauss_newton import GaussNewton
from fit.options import Settings
from fit.sampling import Sampler
from fit.target import Target
from models import atomic, fitted
from models.failures import FitError
from models.schedules import Vector
from models.step import Plan, Step
from service.engine.runtime import Array
from service.runtimes.cpu import OrtRuntime

FINEST = "ddim"  # the solver whose plan of the most steps has a row for each time
NEEDED = (FINEST, "deis")  # a model without deis cannot take a step that reads several earlier x0
TEACHERS = ("ancestral", "ddim")  # the first that the model has, with fresh noise if it takes eta
CLASSIFIER_SEED, HELD_OUT_SEED = 0, 1
TEACHER_SEED = 7000  # of the first chunk, and one more of each other
FIRST_SEED = 100_000  # a plan of n steps is fitted with seeds from n·FIRST_SEED on
CHUNK = 400  # images of the teacher from one seed
TRIED = 100  # images that choose the solver to begin from


class Study:
    def __init__(self, settings: Settings) -> None:
        """Raises BundleError, and FitError for a model that has no such plans."""
        self.settings, self.bundle = settings, load(settings.bundle)
        manifest = self.bundle.manifest
        if missing := [name for name in NEEDED if name not in self.bundle.solvers]:
            raise FitError(f"{manifest.name}: it has no solver {missing[0]}, so it cannot be fitted")
        if len(manifest.classes) < 2:
            raise FitError(f"{manifest.name}: it has no classes, by which its images would be told apart")
        self.finest = self.bundle.solvers[FINEST].plan(manifest.noise_schedule, self.bundle.max_steps, eta=0.0)
        if any(k.x_from_out for k in self.finest):
            raise FitError(f"{manifest.name}: its steps read the network's output past x0, so it cannot be fitted")
        self.work = settings.work / f"{manifest.name}-{self._identity()}"
        self.work.mkdir(parents=True, exist_ok=True)
        self.sampler = Sampler(self.bundle, OrtRuntime(self.bundle, threads=1), len(os.sched_getaffinity(0)))
        images = self.sampler.images(self.teacher())
        half = len(images) // 2  # the other half, which nothing is fitted to, decides in the end
        self._held_out = len(images) - half
        self._classifier = trained(images[:half], np.resize(self.sampler.labels(CHUNK), half), CLASSIFIER_SEED)
        self.target = Target(features(self._classifier, images))

    def _identity(self) -> str:
        """Of all that the work in the folder depends on, but the number of steps."""
        manifest, settings = self.bundle.manifest, self.settings
        files = sorted((name, file.sha256) for name, file in manifest.files.items())
        schedule = {key: value for key, value in manifest.noise_schedule.items() if key != fitted.TABLES}
        parts = (files, schedule, settings.teacher_steps, settings.images, settings.batch_size)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]

    def teacher(self) -> Array:
        """The teacher's final states, kept in the folder, CHUNK images a file."""
        solver = self.bundle.solvers[next(name for name in TEACHERS if name in self.bundle.solvers)]
        settings = dict.fromkeys(solver.settings, 1.0)
        plan = solver.plan(self.bundle.manifest.noise_schedule, self.settings.teacher_steps, **settings)
        chunks = -(-self.settings.images // CHUNK)
        with tqdm(total=chunks * len(plan), unit="step", desc="teacher", leave=False) as bar:
            for chunk in range(chunks):
                if (path := self.work / f"teacher-{chunk}.npz").exists():
                    bar.update(len(plan))
                else:
                    save(path, states=self.sampler.final(plan, TEACHER_SEED + chunk, CHUNK, bar.update))
        return np.concatenate([restored(self.work / f"teacher-{i}.npz")["states"] for i in range(chunks)])

    def fitted_plan(self, steps: int) -> Plan:
        """The plan after all iterations; a fit goes on from the last iteration that was kept."""
        path, iterations = self.work / f"{steps}.npz", self.settings.iterations
        done, candidate = self._restored(path) if path.exists() else (0, self.best_start(steps))
        runs = GaussNewton.runs(candidate)
        with tqdm(initial=done * runs, total=iterations * runs, unit="run", desc=f"{steps} steps", leave=False) as bar:
            method = GaussNewton(self.sampler, self.residuals, bar.update)
            for iteration in range(done, iterations):
                candidate = method.step(candidate, steps * FIRST_SEED + iteration, self.settings.batch_size)
                table = np.array(candidate.weights)
                save(path, done=np.array(iteration + 1), places=np.array(candidate.places), weights=table)
        return candidate.plan()

    def _restored(self, path: Path) -> tuple[int, Candidate]:
        state = restored(path)
        weights = tuple(Step(*row) for row in state["weights"].tolist())
        return int(state["done"]), Candidate(self.finest, tuple(state["places"].tolist()), weights)

    def best_start(self, steps: int) -> Candidate:
        """The one of the model's own solvers that is nearest to the teacher, of those that read `out` for x0 alone."""

        def loss(candidate: Candidate) -> float:
            states = self.sampler.final(candidate.plan(), steps * FIRST_SEED - 1, TRIED)
            return float(np.square(self.residuals(states)).sum())

        plans = (plan for _, plan in self.others(steps) if not any(k.x_from_out for k in plan))
        return min((Candidate.near(self.finest, plan) for plan in plans), key=loss)

    def others(self, steps: int) -> Iterator[tuple[str, Plan]]:
        """Every other way of sampling with as many evaluations, at both ends of its settings."""
        for name, solver in self.bundle.solvers.items():
            for values in {tuple(getattr(s, end) for s in solver.settings.values()) for end in ("low", "high")}:
                settings = dict(zip(solver.settings, values, strict=True))
                for asked in () if solver.steps else sorted({steps, (steps + 1) // 2}):  # Heun takes two a step
                    plan = solver.plan(self.bundle.manifest.noise_schedule, asked, **settings)
                    if len(plan) == steps:
                        yield " ".join([name, *(f"{key}={value:g}" for key, value in settings.items())]), plan

    def residuals(self, states: Array) -> Vector:
        return self.target.residuals(self._features(states))

    def held_out_distance(self, plan: Plan) -> float:
        """To images of the teacher that no fit saw, with noise that no fit saw."""
        states = self.sampler.final(plan, HELD_OUT_SEED, self._held_out)
        return self.target.distance(self._features(states))

    def _features(self, states: Array) -> list[Array]:
        return features(self._classifier, self.sampler.images(states))


def save(path: Path, **arrays: Any) -> None:
    """Writes the arrays as a file, in one step."""

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            np.savez(file, **arrays)

    atomic.replace(path, write)


def restored(path: Path) -> dict[str, NDArray[np.generic]]:
    with np.load(path, allow_pickle=False) as state:
        return dict(state)
