"""Compares policies on a trace in virtual time: python -m service.engine.simulate [--load 0.8 1.5] [--requests 2000]

The scheduler is the service's own; a policy is a rule for due times, or the service's admission. The machine costs what
its curve says, on each of its workers, give or take --noise.
"""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count

import numpy as np

from models.step import Step
from service.engine.admission import Admission
from service.engine.costs import Costs
from service.engine.jobs import Batch, Job
from service.engine.runtime import HostStates
from service.engine.scheduler import DUE_FACTOR, Scheduler
from service.errors import Overloaded

Rule = Callable[[Job, float, float], float]  # of a job, its arrival and its work, seconds: its due time
RULES: dict[str, Rule] = {
    "first come": lambda job, now, work_s: now,
    "shortest first": lambda job, now, work_s: work_s,
    "ours": lambda job, now, work_s: min(job.deadline_s, now + DUE_FACTOR[job.priority] * work_s),
}
MIX = [("a", 4, 0.4), ("b", 20, 0.3), ("c", 50, 0.2), ("b", 250, 0.1)]  # model, steps, share
# ddim on one thread of the build machine, some time ago
CURVE = {1: 0.00235, 2: 0.0042, 4: 0.0076, 8: 0.0143, 16: 0.0271}
WORKERS = 2
GOOD, GOOD_S = 5.0, 0.1  # an answer is good within so many times what it takes alone, or so many seconds


@dataclass(frozen=True)
class Arrival:
    at_s: float
    job: Job


def job(method: str, steps: int, n: int = 1, at_s: float = 0.0, deadline_s: float = math.inf) -> Job:
    return Job(
        id="",
        method=method,
        model=method,
        coefficients=np.zeros((steps, len(Step._fields)), dtype=np.float32),
        shape=(1, 1, 1),
        z_dim=0,
        label=0,
        seed=0,
        n=n,
        submitted_s=at_s,
        deadline_s=deadline_s,
    )


def simulate(
    arrivals: Sequence[Arrival],
    scheduler: Scheduler,
    rule: Rule | Admission,
    noise: float = 0.0,
) -> list[Job]:
    """Runs all that is let in to its end; returns those jobs, `finished_s` filled in. A rule lets in all.

    A step takes what the scheduler's costs say at first, times the exponential of a normal number with the standard
    deviation `noise`; the scheduler observes it.
    """
    rng, truth = np.random.default_rng(0), deepcopy(scheduler.costs)
    order = count()
    events: list[tuple[float, int, tuple[Batch, float] | Job]] = [
        (each.at_s, next(order), each.job) for each in arrivals
    ]
    accepted, idle = list[Job](), scheduler.workers
    while events:
        now, _, event = heappop(events)
        if isinstance(event, tuple):
            batch, seconds = event
            idle += 1
            state = HostStates(np.zeros((batch.rows, 1, 1, 1), dtype=np.float32))
            scheduler.costs.observe(batch.model, batch.rows, seconds)
            for done in dict.fromkeys(image.job for image in scheduler.advance(batch, state, state)):
                if done.steps_left == 0:
                    done.finished_s = now
        elif admitted(event, scheduler, rule, now):
            accepted.append(event)
        if events and events[0][0] == now:
            continue  # all that happens at once, before a batch is chosen
        while idle and (chosen := scheduler.next_batch(now, idle)) is not None:
            idle -= 1
            seconds = truth.seconds(chosen.model, chosen.rows)
            seconds *= math.exp(noise * rng.standard_normal())
            heappush(events, (now + seconds, next(order), (chosen, seconds)))
    return accepted


def admitted(job: Job, scheduler: Scheduler, rule: Rule | Admission, now: float) -> bool:
    try:
        if isinstance(rule, Admission):
            rule.admit(job, now)
        else:
            job.due_s = rule(job, now, scheduler.work_s(job))
            scheduler.add(job)
    except Overloaded:
        return False
    return True


def costs(curves: Mapping[str, Mapping[int, float]]) -> Costs:
    costs = Costs()
    for model, curve in curves.items():
        costs.set(model, curve)
    return costs


def trace(load: float, requests: int, seed: int = 0, deadlines: float = 0.0) -> list[Arrival]:
    """Poisson arrivals of the mix at `load` times what the machine can do; this share of them say a deadline."""
    rng = np.random.default_rng(seed)
    row_s = min(seconds / rows for rows, seconds in CURVE.items()) / WORKERS
    mean_s = sum(steps * share for _, steps, share in MIX) * row_s / load
    times = rng.exponential(mean_s, requests).cumsum().tolist()
    kinds = rng.choice(len(MIX), requests, p=[share for _, _, share in MIX]).tolist()
    said = (rng.random(requests) < deadlines).tolist()
    return [
        Arrival(at_s, job(model, steps, at_s=at_s, deadline_s=at_s + good_s(steps) if says else math.inf))
        for at_s, (model, steps, _), says in zip(times, (MIX[kind] for kind in kinds), said, strict=True)
    ]


def good_s(steps: int) -> float:
    return max(GOOD * steps * CURVE[1], GOOD_S)


def row(arrivals: Sequence[Arrival], done: Sequence[Job]) -> str:
    """Slowdowns, and the share of the machine that went into good answers."""
    took = np.array([each.finished_s - each.submitted_s for each in done])
    steps = np.array([each.steps for each in done])
    slow = took / (steps * CURVE[1])
    good = took <= [good_s(k) for k in steps]
    passed_s = max(arrivals[-1].at_s, max(each.finished_s for each in done))
    row_s = min(seconds / rows for rows, seconds in CURVE.items()) / WORKERS
    figures = np.percentile(slow, 50), np.percentile(slow, 99), np.percentile(slow[steps == 4], 99), slow.max()
    shares = good.mean(), steps[good].sum() * row_s / passed_s, len(done) / len(arrivals)
    return " | ".join([*(f"{figure:.1f}" for figure in figures), *(f"{share:.0%}" for share in shares)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--load", type=float, nargs="+", default=[0.5, 0.8, 0.95, 1.5, 3.0])
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--deadlines", type=float, default=0.0, help="share of the requests that say one")
    parser.add_argument("--backlog-s", type=float, default=60.0)
    parser.add_argument("--noise", type=float, default=0.0, help="standard deviation of the logarithm of a step's time")
    options = parser.parse_args()
    print("| load | policy | p50 slowdown | p99 | p99 of 4 steps | largest | good | goodput | accepted |")
    print("|---|---|---|---|---|---|---|---|---|")
    for load in options.load:
        for name in (*RULES, "ours, admitting"):
            scheduler = Scheduler(16, costs(dict.fromkeys("abc", CURVE)), WORKERS)
            rule = RULES.get(name) or Admission(scheduler, 4096, options.backlog_s)
            arrivals = trace(load, options.requests, deadlines=options.deadlines)
            done = simulate(arrivals, scheduler, rule, options.noise)
            print(f"| {load} | {name} | {row(arrivals, done)} |")


if __name__ == "__main__":
    main()
