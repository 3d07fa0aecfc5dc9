"""What all plans of a model are fitted with: its sampler, its teacher's images, and a folder of unfinished work."""

import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from bundle.loading import load
from bundle.manifest import STEP
from fit.candidate import Candidate, candidates
from fit.features import LEVEL, Features
from fit.gauss_newton import GaussNewton
from fit.options import Settings
from fit.sampling import Sampler
from fit.target import Target
from fit.times import Times, cheapest, even, jump_costs
from models import atomic
from models.failures import FitError
from models.schedules import Vector
from models.solvers import ddim
from models.step import Plan
from service.engine.runtime import Array

TEACHERS = ("ancestral", "ddim")  # the first that the model has, with fresh noise if it takes eta
TEACHER_SEED, HELD_OUT_SEED, CURVATURE_SEED = 1, 2, 3
FIRST_SEED = 1000  # a plan of n steps is fitted with seeds from n·FIRST_SEED on
GRID, CURVES = 40, 40  # steps and images of the trajectories whose curvature is measured


class Study:
    def __init__(self, settings: Settings) -> None:
        """Raises BundleError, and FitError for a model that has no such plans."""
        self.settings, self.bundle = settings, load(settings.bundle)
        manifest = self.bundle.manifest
        if manifest.z_dim or "dpmpp_2m" not in self.bundle.solvers:
            raise FitError(f"{manifest.name}: it has no solver dpmpp_2m, so it cannot be fitted")
        self.rows = self.bundle.solvers["dpmpp_2m"].plan(manifest.noise_schedule, self.bundle.max_steps)
        if self.rows.signal is None:
            raise FitError(f"{manifest.name}: its states are no α·x0 + σ·ε, so it cannot be fitted")
        self.alpha: Vector = self.rows.signal[0]
        self.work = settings.work / f"{manifest.name}-{manifest.files[STEP].sha256[:12]}"
        self.work.mkdir(parents=True, exist_ok=True)
        self.sampler = Sampler(self.bundle, os.cpu_count() or 1)
        looking = int(np.abs(np.log(np.sqrt(1 - self.alpha**2) / self.alpha / LEVEL)).argmin())
        self.features = Features(self.bundle, self.sampler, self.rows[looking], float(self.alpha[looking]))
        self.target = Target(self.features(self.teacher()))

    def teacher(self) -> Array:
        """The teacher's final states, kept in the folder."""
        steps, images = self.settings.teacher_steps, self.settings.images
        path = self.work / f"teacher-{steps}-{images}.npz"
        if path.exists():
            return restored(path)["states"]
        solver = self.bundle.solvers[next(name for name in TEACHERS if name in self.bundle.solvers)]
        plan = solver.plan(self.bundle.manifest.noise_schedule, steps, **dict.fromkeys(solver.settings, 1.0))
        with tqdm(total=len(plan), unit="step", desc="teacher", leave=False) as bar:
            states = self.sampler.final(plan, TEACHER_SEED, images, bar.update)
        save(path, states=states)
        return states

    def evaluations(self, steps: int) -> int:
        """Runs of a plan that the fit of one with this many steps takes."""
        return self.settings.iterations * GaussNewton.runs(steps)

    def fitted_plan(self, steps: int, advance: Callable[[int], object]) -> Plan:
        """The plan after all iterations; a fit goes on from the last iteration that was kept."""
        path = self.work / f"{steps}-{self.settings.batch_size}.npz"
        done, candidate = self.restored(path) if path.exists() else (0, self.best_start(steps))
        advance(min(done, self.settings.iterations) * GaussNewton.runs(steps))
        method = GaussNewton(self.sampler, self.residuals, lambda: advance(1))
        for iteration in range(done, self.settings.iterations):
            candidate = method.step(candidate, steps * FIRST_SEED + iteration, self.settings.batch_size)
            save(path, done=np.array(iteration + 1), solver=np.array(candidate.solver), times=candidate.times)
        return candidate.plan()

    def restored(self, path: Path) -> tuple[int, Candidate]:
        state = restored(path)
        return int(state["done"]), Candidate(self.rows, str(state["solver"]), state["times"])

    def best_start(self, steps: int) -> Candidate:
        """The one of some solvers at some times that is nearest to the teacher."""

        def loss(candidate: Candidate) -> float:
            states = self.sampler.final(candidate.plan(), steps * FIRST_SEED - 1, self.settings.batch_size)
            return float(np.square(self.residuals(states)).sum())

        return min(candidates(self.rows, [self.of_least_curvature(steps), even(self.alpha, steps)]), key=loss)

    def of_least_curvature(self, steps: int) -> Times:
        places, costs = self.curvature
        return places[cheapest(costs, steps)]

    @cached_property
    def curvature(self) -> tuple[Times, Vector]:
        """Places of a fine grid, and the cost of each jump between them."""
        places = even(self.alpha, GRID)
        abar_t = np.square(self.alpha[places])
        abar_s = np.append(abar_t[1:], 1.0)
        steps = zip(places, ddim(abar_t, abar_t, abar_s), strict=True)
        columns = ("x_from_x", "x_from_x0")
        plan = Plan(self.rows[i]._replace(**{c: getattr(k, c) for c in columns}, x_from_x0_prev=0.0) for i, k in steps)
        trajectory = self.sampler.run(plan, CURVATURE_SEED, CURVES)
        alpha = np.sqrt(np.append(abar_t, 1.0))
        return places, jump_costs(np.stack(trajectory.x), np.stack(trajectory.x0), alpha, np.sqrt(1 - alpha**2))

    def residuals(self, states: Array) -> Vector:
        return self.target.residuals(self.features(states))

    def held_out_distance(self, plan: Plan) -> float:
        """To images of the teacher that no fit saw, with noise that no fit saw."""
        states = self.sampler.final(plan, HELD_OUT_SEED, self.settings.images // 2)
        return self.target.distance(self.features(states))


def save(path: Path, **arrays: NDArray[np.generic]) -> None:
    """Writes the file in one step."""

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            np.savez(file, **arrays)

    atomic.replace(path, write)


def restored(path: Path) -> dict[str, NDArray[np.generic]]:
    with np.load(path, allow_pickle=False) as state:
        return dict(state)
