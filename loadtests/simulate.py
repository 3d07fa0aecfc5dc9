"""Compares policies on a trace in virtual time: python -m loadtests.simulate [--load 0.8 1.5] [--requests 2000]

The scheduler is the service's own; a policy is a rule for due times. The machine costs what its curve says.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from service.admission import Admission
from service.core import Job
from service.costs import Costs
from service.errors import Overloaded
from service.scheduler import STRETCH, Scheduler

Rule = Callable[[Job, float, float], float]  # of a job, its arrival and its work, seconds: its due time
RULES: dict[str, Rule] = {
    "first come": lambda job, now, work_s: now,
    "shortest first": lambda job, now, work_s: work_s,
    "ours": lambda job, now, work_s: min(job.deadline_s, now + STRETCH[job.priority] * work_s),
}
MIX = [(4, 0.4), (20, 0.3), (50, 0.2), (250, 0.1)]  # steps, share
CURVE = {1: 0.002, 16: 0.02}


@dataclass(frozen=True)
class Arrival:
    at_s: float
    job: Job


def job(method: str, steps: int, n: int = 1, at_s: float = 0.0, deadline_s: float = np.inf) -> Job:
    table = np.zeros((steps, 9), dtype=np.float32)
    return Job("", method, table, (1, 1, 1), 0, 0, 0, n, submitted_s=at_s, deadline_s=deadline_s)


def simulate(arrivals: Sequence[Arrival], scheduler: Scheduler, rule: Rule | Admission) -> list[Job]:
    """Runs all that is let in to its end; returns those jobs, `finished_s` filled in. A rule lets in all."""
    now, accepted, coming = 0.0, list[Job](), list(arrivals)
    while coming or scheduler.active or scheduler.waiting:
        if not scheduler.active and not scheduler.waiting:
            now = max(now, coming[0].at_s)
        while coming and coming[0].at_s <= now:
            arrived = coming.pop(0).job
            try:
                if isinstance(rule, Admission):
                    rule.admit(arrived, now)
                else:
                    arrived.due_s = rule(arrived, now, scheduler.work_s(arrived))
            except Overloaded:
                continue
            accepted.append(arrived)
            scheduler.add(arrived)
        if (batch := scheduler.next_batch(now)) is None:
            continue
        now += scheduler.costs.seconds(batch.images[0].job.model, len(batch.images))
        state = np.zeros((len(batch.images), 1, 1, 1), dtype=np.float32)
        for done in dict.fromkeys(image.job for image in scheduler.advance(batch, state, state)):
            if done.steps_left == 0:
                done.finished_s = now
                if isinstance(rule, Admission):
                    rule.release(done)
    return accepted


def costs(curves: Mapping[str, Mapping[int, float]]) -> Costs:
    made = Costs()
    for model, curve in curves.items():
        made.set(model, curve)
    return made


def trace(load: float, requests: int, seed: int = 0) -> list[Arrival]:
    """Poisson arrivals of the mix at `load` times what the machine can do."""
    rng = np.random.default_rng(seed)
    row_s = min(seconds / rows for rows, seconds in CURVE.items())
    mean_s = sum(steps * share for steps, share in MIX) * row_s / load
    times = rng.exponential(mean_s, requests).cumsum().tolist()
    steps = rng.choice([steps for steps, _ in MIX], requests, p=[share for _, share in MIX]).tolist()
    return [Arrival(at_s, job("a", k, at_s=at_s)) for at_s, k in zip(times, steps, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--load", type=float, nargs="+", default=[0.5, 0.8, 0.95, 1.5])
    parser.add_argument("--requests", type=int, default=1000)
    options = parser.parse_args()
    print("| load | policy | p50 slowdown | p99 | p99 of 4 steps | largest |\n|---|---|---|---|---|---|")
    for load in options.load:
        for name, rule in RULES.items():
            done = simulate(trace(load, options.requests), Scheduler(16, costs({"a": CURVE})), rule)
            slow = np.array([(each.finished_s - each.submitted_s) / (len(each.table) * CURVE[1]) for each in done])
            short = slow[[len(each.table) == 4 for each in done]]
            figures = np.percentile(slow, 50), np.percentile(slow, 99), np.percentile(short, 99), slow.max()
            print(f"| {load} | {name} | " + " | ".join(f"{figure:.1f}" for figure in figures) + " |")


if __name__ == "__main__":
    main()
