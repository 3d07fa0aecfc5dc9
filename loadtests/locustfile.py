"""Users like real ones: browsing, in a hurry, watching an image form, and jobs that want many. Every answer is checked.

    locust -f loadtests/locustfile.py --host http://localhost:8000       with locust's web page
    ./run load                                                           against a server that it starts

A kind of user more is a line in `mix` and a subclass of `Caller` with a task that says what it asks for.
"""

import random
from argparse import Namespace
from typing import Any

from locust import FastHttpUser, LoadTestShape, constant_pacing, events, task
from locust.argument_parser import LocustArgumentParser
from locust.contrib.fasthttp import ResponseContextManager
from locust.env import Environment

from loadtests.load.checks import wrong_images
from loadtests.load.mix import KINDS

# The names that such answers stand under in the statistics.
REFUSED, HOPELESS = "refused with Retry-After", "refused for its deadline"
LATE = "in a hurry, answered late"
DEADLINE_MS = 2000
SPAWNED_PER_S = 100.0

RAMP, BURST, RECOVERY = 0.2, 0.5, 0.7  # where each begins or ends, as a share of the run


def options(parser: LocustArgumentParser) -> None:
    parser.add_argument(
        "--steps", default="", help="steps that users ask for, e.g. 10,20,20,50; default: those of the model"
    )
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
    if environment.parsed_options:
        for name, user in USERS.items():
            user.weight = getattr(environment.parsed_options, name)


def header(answer: ResponseContextManager, name: str) -> str:
    """An answer's header; empty where it has none, or where no answer came."""
    return str(answer.headers.get(name, "")) if answer.headers else ""


def is_refusal(answer: ResponseContextManager) -> bool:
    """Whether it is an honest one, that says when to come back."""
    return answer.status_code == 429 and int(header(answer, "Retry-After") or 0) > 0


class Caller(FastHttpUser):
    """Knows the models, asks for images, and checks what comes."""

    abstract = True
    connection_timeout = network_timeout = 300.0  # a queue may be a minute long, and an answer late is still an answer

    def on_start(self) -> None:
        self.methods: Any = self.client.get("/methods").json()

    @property
    def options(self) -> Namespace:
        return self.environment.parsed_options or Namespace(steps="", deadline_ms=DEADLINE_MS)

    def body(self, **more: Any) -> dict[str, Any]:
        """A request to any method, for any class, of as many steps as it takes."""
        method = random.choice(self.methods)  # noqa: S311
        body = {"method": method["method"], "seed": random.getrandbits(64)}
        if method["classes"]:
            body["class_label"] = random.randrange(len(method["classes"]))  # noqa: S311
        if self.options.steps:
            wanted = int(random.choice(self.options.steps.split(",")))  # noqa: S311
            body["steps"] = min(wanted, method["steps"]["max"])
        return {**body, **more}

    def ask(self, name: str, body: dict[str, Any], accept: str, **headers: str) -> ResponseContextManager:
        """POST /generate; the answer is a failure unless it is what was asked for, or an honest refusal."""
        with self.client.post(
            "/generate", json=body, headers={"Accept": accept, **headers}, name=name, catch_response=True
        ) as answer:
            deadline_ms = body.get("deadline_ms")
            if is_refusal(answer):
                answer.request_meta["name"] = HOPELESS if deadline_ms else REFUSED
                answer.success()
            elif fault := self.fault(answer, body, accept, known="If-None-Match" in headers):
                answer.failure(fault)
            elif deadline_ms and answer.request_meta["response_time"] > deadline_ms:
                answer.request_meta["name"] = LATE
        return answer

    def fault(self, answer: ResponseContextManager, body: dict[str, Any], accept: str, known: bool) -> str:
        """What is wrong with an answer; nothing if it is right. A `known` one is only confirmed."""
        if answer.status_code != (304 if known else 200):
            return f"status {answer.status_code}: {answer.text}"
        if header(answer, "Trilemma-Seed") != str(body["seed"]) or not header(answer, "ETag"):
            return "no ETag, or not the seed that was asked for"
        if known:
            return "a 304 with a body" if answer.content else ""
        shape = next(method["image_shape"] for method in self.methods if method["method"] == body["method"])
        try:
            return wrong_images(answer.content, accept, (body.get("n", 1), *shape))
        except (OSError, ValueError, KeyError) as error:
            return f"not what {accept} means: {error!r}"


class Browser(Caller):
    """Looks at one picture, then at another; comes back to one now and then, as a browser with a cache does."""

    weight = KINDS["browsing"].weight
    wait_time = constant_pacing(KINDS["browsing"].pacing_s)

    @task(6)
    def look(self) -> None:
        self.ask("a picture", self.body(), "image/png")

    @task(2)
    def use(self) -> None:
        self.ask("an image as JSON", self.body(format="webp"), "application/json")

    @task(1)
    def come_back(self) -> None:
        body = self.body()
        first = self.ask("a picture", body, "image/png")
        if first.status_code == 200:
            self.ask("the same picture", body, "image/png", **{"If-None-Match": header(first, "ETag")})


class Hurried(Caller):
    """Has no use for a picture that comes after its deadline."""

    weight = KINDS["hurried"].weight
    wait_time = constant_pacing(KINDS["hurried"].pacing_s)

    @task
    def need(self) -> None:
        self.ask("in a hurry", self.body(deadline_ms=self.options.deadline_ms), "image/png")


class Watcher(Caller):
    """Watches an image form; now and then it has seen enough and goes away."""

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
                answer.release()  # a body that is not read to its end: the connection is closed


class Job(Caller):
    """Wants many images, as numbers."""

    weight = KINDS["batch"].weight
    wait_time = constant_pacing(KINDS["batch"].pacing_s)

    @task
    def fetch(self) -> None:
        n = KINDS["batch"].images
        self.ask(f"{n} images", self.body(n=n), "application/x-npy")


USERS = {"browsing": Browser, "hurried": Hurried, "watching": Watcher, "batch": Job}


class Wave(LoadTestShape):
    """Up to `--users`, a burst of `--burst` times as many, and back; `--run-time` long, 2 minutes by default."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        assert self.runner is not None
        asked = self.runner.environment.parsed_options
        assert asked is not None
        users = asked.num_users or 1
        part = self.get_run_time() / (asked.run_time or 120)
        if part >= 1:
            return None
        if part < RAMP:
            wanted = max(1, round(users * part / RAMP))
        elif BURST <= part < RECOVERY:
            wanted = round(users * asked.burst)
        else:
            wanted = users
        return wanted, SPAWNED_PER_S


def judge(environment: Environment, **_: Any) -> None:
    """The exit code: 0 if no answer was wrong and the thresholds are met."""
    asked, total = environment.parsed_options, environment.stats.total
    assert asked is not None
    refused, hopeless, late, in_time = (
        environment.stats.get(name, "POST").num_requests for name in (REFUSED, HOPELESS, LATE, "in a hurry")
    )
    p95_s = total.get_response_time_percentile(0.95) / 1000
    faults = [
        fault
        for fault, holds in {
            "no request was made": total.num_requests == 0,
            f"{total.num_failures} answers were wrong": total.num_failures > 0,
            f"{refused} of {total.num_requests} were refused": refused > asked.max_refused * total.num_requests,
            f"{late} of {late + in_time} deadlines were missed": late > asked.max_late * (late + in_time),
            f"95 % took up to {p95_s:.2f} s": p95_s > asked.max_p95_s,
        }.items()
        if holds
    ]
    verdict = "; ".join(faults) or "all as it should be"
    said = f"{total.num_requests} requests, {refused} refused, {hopeless} for their deadline, {late} after it"
    print(f"{said}, p95 {p95_s:.2f} s: {verdict}")
    environment.process_exit_code = 1 if faults else 0


events.init_command_line_parser.add_listener(options)
events.init.add_listener(weigh)
events.quitting.add_listener(judge)
