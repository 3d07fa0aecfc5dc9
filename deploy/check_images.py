"""`./run check-images`: builds the image, runs it with Prometheus by compose, and checks what an operator relies on.

It uses Docker, or without it podman, with stand-ins for the images that podman cannot pull.
"""

import asyncio
import io
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from deploy import standins
from deploy.standins import BUILD, COMPOSE, call
from loadtests.server_process import is_loaded

IMAGE = "localhost/trilemma:cpu"
SERVICE, PROMETHEUS = "http://127.0.0.1:8000", "http://127.0.0.1:9090"
ADDED_MB = 390  # to a base of 130 MB: at most 520 MB in all
REQUESTS, STEPS = 12, 50  # in flight when the service is stopped
WITHIN_S = 120
MEMORY_LIMIT, MEMORY_BYTES = "trilemma_memory_limit_bytes ", 2 * 2**30
HOST_NETWORK = ["--file", "docker-compose.yml", "--file", "deploy/compose.host.yml"]


@dataclass(frozen=True)
class Tools:
    """The commands of a container engine, and the names of its containers."""

    engine: str
    build: list[str]
    compose: list[str]
    up: list[str]
    service: str
    prometheus: str
    base: str  # of the image
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def output(self, *command: str) -> str:
        """The output of a command of the engine. Raises CalledProcessError."""
        line = [self.engine, *command]
        ended = subprocess.run(line, check=True, env=self.environment, stdout=subprocess.PIPE, text=True)  # noqa: S603
        return ended.stdout.strip()


def find_tools() -> Tools:
    """Docker if it runs, else podman; installs what podman needs, and builds the stand-ins."""
    probes = [["docker", "info"], ["docker", "compose", "version"]]
    try:
        docker = all(subprocess.run(command, capture_output=True).returncode == 0 for command in probes)  # noqa: S603
    except FileNotFoundError:
        docker = False
    if docker:
        up = ["up", "--detach", "--wait"]
        names = "trilemma-trilemma-1", "trilemma-prometheus-1"
        return Tools("docker", ["docker", "build"], ["docker", "compose"], up, *names, standins.base())
    environment = standins.configure()
    standins.install()
    standins.make(environment)
    up = ["up", "--detach", "--no-build"]
    names = "trilemma_trilemma_1", "trilemma_prometheus_1"
    base = standins.stand_in(standins.base())
    build = [*BUILD, "--layers", "--build-arg", f"PYTHON={base}"]
    return Tools("podman", build, [str(COMPOSE), *HOST_NETWORK], up, *names, base, environment)


def main() -> None:
    tools = find_tools()
    call([*tools.build, "--target", "cpu", "--tag", IMAGE, "."], tools.environment)
    try:
        call([*tools.compose, *tools.up, "trilemma", "prometheus"], tools.environment)
        for url in (f"{SERVICE}/readyz", f"{PROMETHEUS}/-/ready"):
            wait_until(partial(answers, url))
        is_healthy(tools)
        before = pictures()
        is_scraped(len(before))
        outlives_a_kill(tools, before)
        answers_all_before_it_stops(tools)
    finally:
        call([*tools.compose, "down"], tools.environment)
    is_small(tools)


def wait_until(holds: Callable[[], Any]) -> None:
    """Returns once `holds()` is true; a refused connection counts as false. Raises SystemExit after WITHIN_S."""
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        try:
            if holds():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise SystemExit(f"not within {WITHIN_S} s")


def answers(url: str) -> bool:
    """Whether it is ready; the service is so only with all its models here."""
    answer = httpx.get(url)
    return answer.is_success and (not url.startswith(SERVICE) or is_loaded(answer))


def expect(holds: bool, what: str) -> None:
    """Prints a passed check. Raises SystemExit for a failed one."""
    if not holds:
        raise SystemExit(f"failed: {what}")
    print(f"ok      {what}", flush=True)


def is_healthy(tools: Tools) -> None:
    """Checks health, user and file system of the containers."""
    for container in (tools.service, tools.prometheus):
        if tools.engine == "podman":  # it runs no health checks by itself without systemd
            tools.output("healthcheck", "run", container)
        status = tools.output("inspect", "--format", "{{.State.Health.Status}}", container)
        expect(status == "healthy", f"the health check of {container} passes")
    user = tools.output("exec", tools.service, "id", "-u")
    expect(user == "10001", "it does not run as root")
    read_only = "import os; print(os.statvfs('/').f_flag & os.ST_RDONLY)"
    flag = tools.output("exec", tools.service, "python", "-c", read_only)
    expect(flag == "1", "its root file system is read-only")
    limit = next(line for line in httpx.get(f"{SERVICE}/metrics").text.splitlines() if line.startswith(MEMORY_LIMIT))
    expect(float(limit.split()[1]) == MEMORY_BYTES, "it knows the memory that the compose file lets it use")


def pictures() -> dict[str, bytes]:
    """A picture of every method, all from one seed."""
    files = {}
    for method in httpx.get(f"{SERVICE}/methods").raise_for_status().json():
        name, (_, height, width) = method["method"], method["image_shape"]
        body = {"method": name, "seed": 7}
        answer = httpx.post(f"{SERVICE}/generate", json=body, headers={"Accept": "image/png"}, timeout=WITHIN_S)
        files[name] = answer.raise_for_status().content
        size = Image.open(io.BytesIO(files[name])).size
        expect(size == (width, height), f"{name}, of the family {method['family']}, gives a picture")
    return files


def is_scraped(images: int) -> None:
    """Checks that Prometheus has the service's metrics, and that its rules work."""

    def value(expression: str) -> float:
        answer = httpx.get(f"{PROMETHEUS}/api/v1/query", params={"query": expression}).raise_for_status()
        return sum(float(sample["value"][1]) for sample in answer.json()["data"]["result"])

    wait_until(lambda: value('up{job="trilemma"}') == 1 and value("trilemma_images_total") >= images)
    expect(True, "Prometheus scrapes it by its name and sees the images")
    rules = httpx.get(f"{PROMETHEUS}/api/v1/rules").raise_for_status().json()["data"]["groups"]
    healthy = [rule["health"] == "ok" for group in rules for rule in group["rules"] if rule["health"] != "unknown"]
    expect(all(healthy), f"Prometheus has {sum(len(group['rules']) for group in rules)} rules, none of them failing")


def outlives_a_kill(tools: Tools, before: dict[str, bytes]) -> None:
    """Checks that the service gives the same pictures after SIGKILL and a start."""
    tools.output("kill", "--signal", "KILL", tools.service)
    start_s = time.monotonic()
    tools.output("start", tools.service)
    wait_until(partial(answers, f"{SERVICE}/readyz"))
    passed_s = time.monotonic() - start_s
    expect(
        pictures() == before, f"killed and started again it is ready after {passed_s:.1f} s, and gives the same bytes"
    )


def accepted() -> float:
    """The number of images that the service has accepted so far."""
    names = {"trilemma_waiting_images", "trilemma_active_images", "trilemma_images_total"}
    families = text_string_to_metric_families(httpx.get(f"{SERVICE}/metrics").text)
    return sum(sample.value for family in families for sample in family.samples if sample.name in names)


def answers_all_before_it_stops(tools: Tools) -> None:
    """Checks that every accepted request is answered when the container is stopped."""
    before = accepted()

    async def stop_under_load() -> list[int]:
        async with httpx.AsyncClient(base_url=SERVICE, timeout=WITHIN_S) as client:
            longest = max((await client.get("/methods")).json(), key=lambda method: method["steps"]["max"])
            body = {"method": longest["method"], "steps": min(STEPS, longest["steps"]["max"]), "n": 4}
            bodies = [{**body, "seed": seed} for seed in range(REQUESTS)]
            requests = [asyncio.create_task(client.post("/generate", json=body)) for body in bodies]
            await asyncio.to_thread(wait_until, lambda: accepted() == before + 4 * REQUESTS)
            await asyncio.to_thread(tools.output, "stop", "-t", str(WITHIN_S), tools.service)
            return [answer.status_code for answer in await asyncio.gather(*requests)]

    statuses = asyncio.run(stop_under_load())
    code = tools.output("inspect", "--format", "{{.State.ExitCode}}", tools.service)
    expect(statuses == [200] * REQUESTS and code == "0", "stopped under load it answers every request and exits 0")


def is_small(tools: Tools) -> None:
    """Checks the size of the image."""

    def megabytes(image: str) -> float:
        return int(tools.output("image", "inspect", "--format", "{{.Size}}", image)) / 1e6

    total, base = megabytes(IMAGE), megabytes(tools.base)
    expect(total - base <= ADDED_MB, f"the image has {total:.0f} MB, {base:.0f} of them its base's")


if __name__ == "__main__":
    main()
