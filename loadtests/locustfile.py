"""Simulated users: browsers, users with a deadline, watchers of a stream, and batch jobs. Every answer is checked.

    locust -f loadtests/locustfile.py --host http://localhost:8000       with locust's web page
    ./run load                                                           against a server that it starts

A further kind of user is a line in `load/users.py` and a subclass of `Caller` with a task that sends its request.
"""

import random
from argparse import Namespace
from typing import Any

from locust import FastHttpUser, LoadTestShape, constant_pacing, events, task
from locust.argument_parser import LocustArgumentParser
from locust.contrib.fasthttp import ResponseContextManager
from locust.env import Environment

from loadtests.load.checks import wrong_images
from loadtests.load.users import KINDS

# The names of these answers in the statistics.
REFUSED, HOPELESS = "refused with Retry-After", "refused for its deadline"
LATE = "in a hurry, answered late"
DEADLINE_MS = 2000
SPAWNED_PER_S = 100.0

RAMP_END, BURST_START, BURST_END = 0.2, 0.5, 0.7  # as shares of the run


def options(parser: LocustArgumentParser) -> None:
    """Adds this file's options to locust's."""
    parser.add_argument(
        "--steps", default="", help="steps that users ask for, e.g. 10,20,20,50; default: those of the model"
    )
    parser.add_argument("--guidance", type=float, default=1.0, help="weight that users ask for where a model takes it")
    for name, kind in KINDS.items():
        parser.add_argument(f"--{name}", type=int, default=kind.weight, help=f"weight of {name} users")
    parser.add_argument("--deadline-ms", type=int, default=DEADLINE_MS, help="deadline of hurried users")
    parser.add_argument("--burst", type=float, default=2.0, help="factor of users in the burst; 1: no burst")
    parser.add_argument(
        "--max-refused", type=float, default=0.0, help="largest share of requests without a deadline that get a 429"
    )
    parser.add_argument(
        "--max-late", type=float, default=0.05, help="largest share of accepted deadlines that callers see missed"
    )
    parser.add_argument("--max-p95-s", type=float, default=60.0, help="largest 95th percentile of the latency, seconds")


def weigh(environment: Environment, **_: Any) -> None:
    """Sets the weights of the users from the options."""
    if environment.parsed_options:
        for name, user in USERS.items():
            user.weight = getattr(environment.parsed_options, name)


def header(answer: ResponseContextManager, name: str) -> str:
    """An answer's header; empty if it has none, or if no answer came."""
    return str(answer.headers.get(name, "")) if answer.headers else ""


def is_refusal(answer: ResponseContextManager) -> bool:
    """Whether it is a 429 with a Retry-After."""
    return answer.status_code == 429 and int(header(answer, "Retry-After") or 0) > 0


class Caller(FastHttpUser):
    """A user: sends requests for images of any model, and checks the answers."""

    abstract = True
    connection_timeout = network_timeout = 300.0  # a queue may be a minute long, and late answers are checked too

    def on_start(self) -> None:
        self.methods: Any = self.client.get("/methods").json()

    @property
    def options(self) -> Namespace:
        return self.environment.parsed_options or Namespace(steps="", guidance=1.0, deadline_ms=DEADLINE_MS)

    def body(self, **more: Any) -> dict[str, Any]:
        """A request to a random method for a random class, with steps that the method takes."""
        method = random.choice(self.methods)  # noqa: S311
        body = {"method": method["method"], "seed": random.getrandbits(64)}
        if method["classes"]:
            body["class_label"] = random.randrange(len(method["classes"]))  # noqa: S311
        if method["guidance"] and self.options.guidance != 1:
            body["guidance"] = self.options.guidance
        if self.options.steps:
            steps = int(random.choice(self.options.steps.split(",")))  # noqa: S311
            body["steps"] = min(steps, method["steps"]["max"])
        return {**body, **more}

    def ask(self, name: str, body: dict[str, Any], accept: str, **headers: str) -> ResponseContextManager:
        """POST /generate; the answer is a failure unless it has the requested images, or is a refusal."""
        with self.client.post(
            "/generate", json=body, headers={"Accept": accept, **headers}, name=name, catch_response=True
        ) as answer:
            deadline_ms = body.get("deadline_ms")
            if is_refusal(answer):
                answer.request_meta["name"] = HOPELESS if deadline_ms else REFUSED
                answer.success()
            elif fault := self.fault(answer, body, accept, revalidates="If-None-Match" in headers):
                answer.failure(fault)
            elif deadline_ms and answer.request_meta["response_time"] > deadline_ms:
                answer.request_meta["name"] = LATE
        return answer

    def fault(self, answer: ResponseContextManager, body: dict[str, Any], accept: str, revalidates: bool) -> str:
        """What is wrong with an answer; empty if nothing is. One that `revalidates` a cached image must be a 304."""
        if answer.status_code != (304 if revalidates else 200):
            return f"status {answer.status_code}: {answer.text}"
        if header(answer, "Trilemma-Seed") != str(body["seed"]) or not header(answer, "ETag"):
            return "no ETag, or not the requested seed"
        if revalidates:
            return "a 304 with a body" if answer.content else ""
        shape = next(method["image_shape"] for method in self.methods if method["method"] == body["method"])
        try:
            return wrong_images(answer.content, accept, (body.get("n", 1), *shape))
        except (OSError, ValueError, KeyError) as error:
            return f"not valid {accept}: {error!r}"


class Browser(Caller):
    """Requests single images, and sometimes one again with If-None-Match, as a browser with a cache does."""

    weight = KINDS["browsing"].weight
    wait_time = constant_pacing(KINDS["browsing"].pacing_s)

    @task(6)
    def view(self) -> None:
        self.ask("a picture", self.body(), "image/png")

    @task(2)
    def view_as_json(self) -> None:
        self.ask("an image as JSON", self.body(format="webp"), "application/json")

    @task(1)
    def revalidate(self) -> None:
        body = self.body()
        first = self.ask("a picture", body, "image/png")
        if first.status_code == 200:
            self.ask("the same picture", body, "image/png", **{"If-None-Match": header(first, "ETag")})


class Hurried(Caller):
    """Requests single images with a deadline."""

    weight = KINDS["hurried"].weight
    wait_time = constant_pacing(KINDS["hurried"].pacing_s)

    @task
    def view_by_deadline(self) -> None:
        self.ask("in a hurry", self.body(deadline_ms=self.options.deadline_ms), "image/png")


class Watcher(Caller):
    """Watches the stream of an image's steps, and sometimes disconnects before its end."""

    weight = KINDS["watching"].weight
    wait_time = constant_pacing(KINDS["watching"].pacing_s)

    @task(4)
    def watch(self) -> None:
        self.ask("a stream", self.body(preview_every=2), "text/event-stream")

    @task(1)
    def leave(self) -> None:
        with self.client.post(
            "/generate",
            json=self.body(preview_every=1),
            headers={"Accept": "text/event-stream"},
            name="a stream that is left",
            stream=True,
            catch_response=True,
        ) as answer:
            if is_refusal(answer):
                answer.request_meta["name"] = REFUSED
                answer.success()
            elif answer.status_code != 200 or not answer.stream.readline(b"\n\n").startswith(b"event: queued"):
                answer.failure(f"status {answer.status_code}, or a stream that does not begin")
            else:
                answer.release()  # closes the connection, as the body was not read to its end


class Job(Caller):
    """Requests many images at once, as arrays."""

    weight = KINDS["batch"].weight
    wait_time = constant_pacing(KINDS["batch"].pacing_s)

    @task
    def fetch(self) -> None:
        n = KINDS["batch"].images
        self.ask(f"{n} images", self.body(n=n), "application/x-npy")


USERS = {"browsing": Browser, "hurried": Hurried, "watching": Watcher, "batch": Job}


class Wave(LoadTestShape):
    """A ramp to `--users`, a burst of `--burst` times as many, and back; takes `--run-time`, 2 minutes by default."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        """The number of users now, and how many start a second; None at the end."""
        assert self.runner is not None
        options = self.runner.environment.parsed_options
        assert options is not None
        users = options.num_users or 1
        progress = self.get_run_time() / (options.run_time or 120)
        if progress >= 1:
            return None
        if progress < RAMP_END:
            users = max(1, round(users * progress / RAMP_END))
        elif BURST_START <= progress < BURST_END:
            users = round(users * options.burst)
        return users, SPAWNED_PER_S


def judge(environment: Environment, **_: Any) -> None:
    """Prints the result, and sets the exit code: 0 if no answer was wrong and the thresholds are met."""
    limits, total = environment.parsed_options, environment.stats.total
    assert limits is not None
    refused, hopeless, late, in_time = (
        environment.stats.get(name, "POST").num_requests for name in (REFUSED, HOPELESS, LATE, "in a hurry")
    )
    p95_s = total.get_response_time_percentile(0.95) / 1000
    faults = [
        fault
        for fault, holds in {
            "no request was made": total.num_requests == 0,
            f"{total.num_failures} answers were wrong": total.num_failures > 0,
            f"{refused} of {total.num_requests} were refused": refused > limits.max_refused * total.num_requests,
            f"{late} of {late + in_time} deadlines were missed": late > limits.max_late * (late + in_time),
            f"95 % took up to {p95_s:.2f} s": p95_s > limits.max_p95_s,
        }.items()
        if holds
    ]
    verdict = "; ".join(faults) or "no faults"
    counts = f"{total.num_requests} requests, {refused} refused, {hopeless} for their deadline, {late} late"
    print(f"{counts}, p95 {p95_s:.2f} s: {verdict}")
    environment.process_exit_code = 1 if faults else 0


events.init_command_line_parser.add_listener(options)
events.init.add_listener(weigh)
events.quitting.add_listener(judge)
