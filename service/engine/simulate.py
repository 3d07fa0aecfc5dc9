"""Compares policies on a trace in virtual time: python -m service.engine.simulate [--load 0.8 1.5] [--requests 2000]

The scheduler is the service's own. A policy is a rule for due times, or the service's admission. A step takes the
seconds of the machine's curve on each worker, times a random factor with --noise.
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
from service.engine.workload import MIX, good_s
from service.errors import Overloaded

Rule = Callable[[Job, float, float], float]  # of a job, its arrival and its work, seconds: its due time
RULES: dict[str, Rule] = {
    "first come": lambda job, now, work_s: now,
    "shortest first": lambda job, now, work_s: work_s,
    "ours": lambda job, now, work_s: min(job.deadline_s, now + DUE_FACTOR[job.priority] * work_s),
}
CURVE = {1: 0.00235, 2: 0.0042, 4: 0.0076, 8: 0.0143, 16: 0.0271}  # of ddim, on one thread of a machine with two
CURVES = {kind.method: CURVE for kind in MIX}
WORKERS = 2
ROW_S = min(seconds / rows for rows, seconds in CURVE.items()) / WORKERS  # a row's share of the machine at capacity


@dataclass(frozen=True)
class Arrival:
    """A job that is submitted at a time."""

    at_s: float
    job: Job


def job(method: str, steps: int, n: int = 1, at_s: float = 0.0, deadline_s: float = math.inf) -> Job:
    """A job with all that the policy reads, and no numbers to compute."""
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
    """Runs every accepted job to its end, and returns them with `finished_s` set. A rule accepts every job.

    A step takes the seconds of the scheduler's initial costs, times the exponential of a normal number with the
    standard deviation `noise`. The scheduler observes the result.
    """
    rng, truth = np.random.default_rng(0), deepcopy(scheduler.costs)
    order = count()
    events: list[tuple[float, int, tuple[Batch, float] | Job]] = [
        (arrival.at_s, next(order), arrival.job) for arrival in arrivals
    ]
    accepted, idle = list[Job](), scheduler.workers
    while events:
        now, _, event = heappop(events)
        if isinstance(event, tuple):
            batch, seconds = event
            idle += 1
            state = HostStates(np.zeros((batch.rows, 1, 1, 1), dtype=np.float32))
            scheduler.costs.observe(batch.model, batch.rows, seconds)
            for job in dict.fromkeys(image.job for image in scheduler.advance(batch, state, state)):
                if job.steps_left == 0:
                    job.finished_s = now
        elif admitted(event, scheduler, rule, now):
            accepted.append(event)
        if events and events[0][0] == now:
            continue  # handle all events of this moment before choosing a batch
        while idle and (chosen := scheduler.next_batch(now, idle)) is not None:
            idle -= 1
            seconds = truth.seconds(chosen.model, chosen.rows)
            seconds *= math.exp(noise * rng.standard_normal())
            previews_s = sum(image.wants_preview for image in chosen.images) * truth.preview_seconds(chosen.model)
            heappush(events, (now + seconds + previews_s, next(order), (chosen, seconds)))
    return accepted


def admitted(job: Job, scheduler: Scheduler, rule: Rule | Admission, now: float) -> bool:
    """Adds the job to the scheduler; False if it is refused."""
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
    """The cost model of these curves, seconds by rows, by model."""
    costs = Costs()
    for model, curve in curves.items():
        costs.set(model, curve)
    return costs


def trace(load: float, requests: int, seed: int = 0, deadlines: float = 0.0) -> list[Arrival]:
    """Poisson arrivals of the mix at `load` times the machine's capacity; the share `deadlines` has a deadline."""
    rng = np.random.default_rng(seed)
    mean_s = sum(kind.steps * kind.share for kind in MIX) * ROW_S / load
    times = rng.exponential(mean_s, requests).cumsum().tolist()
    kinds = [MIX[index] for index in rng.choice(len(MIX), requests, p=[kind.share for kind in MIX])]
    have_deadlines = (rng.random(requests) < deadlines).tolist()
    arrivals = []
    for at_s, kind, has_deadline in zip(times, kinds, have_deadlines, strict=True):
        deadline_s = at_s + good_s(kind.steps * CURVE[1]) if has_deadline else math.inf
        arrivals.append(Arrival(at_s, job(kind.method, kind.steps, at_s=at_s, deadline_s=deadline_s)))
    return arrivals


def row(arrivals: Sequence[Arrival], finished: Sequence[Job]) -> str:
    """The table's cells: slowdowns (latency over latency alone), shares of good answers, goodput and acceptance."""
    latency_s = np.array([job.finished_s - job.submitted_s for job in finished])
    steps = np.array([job.steps for job in finished])
    slowdown = latency_s / (steps * CURVE[1])
    good = latency_s <= [good_s(alone_s) for alone_s in steps * CURVE[1]]
    duration_s = max(arrivals[-1].at_s, max(job.finished_s for job in finished))
    short = slowdown[steps == 4]
    figures = np.percentile(slowdown, 50), np.percentile(slowdown, 99), np.percentile(short, 99), slowdown.max()
    shares = good.mean(), steps[good].sum() * ROW_S / duration_s, len(finished) / len(arrivals)
    return " | ".join([*(f"{figure:.1f}" for figure in figures), *(f"{share:.0%}" for share in shares)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--load", type=float, nargs="+", default=[0.5, 0.8, 0.95, 1.5, 3.0], help="shares of capacity")
    parser.add_argument("--requests", type=int, default=2000, help="number of requests at each load")
    parser.add_argument("--deadlines", type=float, default=0.0, help="share of the requests with a deadline")
    parser.add_argument("--backlog-s", type=float, default=60.0, help="largest backlog of the admission, seconds")
    parser.add_argument("--noise", type=float, default=0.0, help="standard deviation of the logarithm of a step's time")
    options = parser.parse_args()
    print("| load | policy | p50 slowdown | p99 | p99 of 4 steps | largest | good | goodput | accepted |")
    print("|---|---|---|---|---|---|---|---|---|")
    for load in options.load:
        for name in (*RULES, "ours, admitting"):
            scheduler = Scheduler(16, costs(CURVES), WORKERS)
            rule = RULES.get(name) or Admission(scheduler, 4096, options.backlog_s)
            arrivals = trace(load, options.requests, deadlines=options.deadlines)
            finished = simulate(arrivals, scheduler, rule, options.noise)
            print(f"| {load} | {name} | {row(arrivals, finished)} |")


if __name__ == "__main__":
    main()
