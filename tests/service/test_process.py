"""The service as a process of its own, over the shipped models: what it imports, what it answers, how it ends."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import REPOSITORY

FORBIDDEN = {"torch", "diffusers", "onnx", "onnxscript", "matplotlib", "safetensors", "export", "loadtests"}


@pytest.fixture
def server() -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """The URL of a ready server, and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "service", "--port", str(port)], cwd=REPOSITORY)
    url = f"http://127.0.0.1:{port}"
    try:
        asyncio.run(wait_until_ready(url, process))
        yield url, process
    finally:
        process.kill()
        process.wait()


async def wait_until_ready(url: str, process: "subprocess.Popen[bytes]") -> None:
    async with httpx.AsyncClient(base_url=url) as client:
        while process.poll() is None:
            try:
                if (await client.get("/readyz")).is_success:
                    return
            except httpx.TransportError:
                await asyncio.sleep(0.05)
    raise AssertionError(f"the server ended with {process.returncode}")


def accepted(metrics: str) -> float:
    """How many images the server has taken on so far."""
    wanted = {"trilemma_waiting_images", "trilemma_active_images", "trilemma_images_total"}
    samples = [s for family in text_string_to_metric_families(metrics) for s in family.samples]
    return sum(s.value for s in samples if s.name in wanted)


def test_the_service_imports_nothing_of_training_or_export() -> None:
    script = "import sys, service.__main__; print(*{name.partition('.')[0] for name in sys.modules})"
    output = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, check=True, text=True)
    imported = set(output.stdout.split())
    assert {"fastapi", "onnxruntime", "numpy"} <= imported
    assert not imported & FORBIDDEN


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_every_accepted_request_has_its_answer(
    server: tuple[str, "subprocess.Popen[bytes]"], signum: signal.Signals
) -> None:
    url, process = server

    async def signal_under_load() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=url, timeout=120) as client:
            bodies = [{"method": "ddim", "steps": 20, "seed": seed, "n": 4} for seed in range(12)]
            requests = [asyncio.create_task(client.post("/generate", json=body)) for body in bodies]
            while accepted((await client.get("/metrics")).text) < 12 * 4:
                pass
            os.kill(process.pid, signum)
            return await asyncio.gather(*requests)

    answers = asyncio.run(signal_under_load())
    assert [answer.status_code for answer in answers] == [200] * 12
    assert process.wait(60) == 0


def test_the_readmes_command_gives_the_same_picture_alone_and_among_thirty_others(
    server: tuple[str, "subprocess.Popen[bytes]"],
) -> None:
    url, _ = server
    body = {"method": "ddim", "steps": 20, "seed": 7, "class_label": 3}
    headers = {"Accept": "image/png"}

    async def alone_then_among_others() -> tuple[bytes, bytes]:
        async with httpx.AsyncClient(base_url=url, timeout=120) as client:
            alone = await client.post("/generate", json=body, headers=headers)
            others = [
                {"method": "ddim", "steps": 1 + 3 * i, "seed": i, "eta": i % 2, "class_label": i % 10}
                for i in range(30)
            ]
            bodies = [*others[:15], body, *others[15:]]
            answers = await asyncio.gather(*(client.post("/generate", json=b, headers=headers) for b in bodies))
            assert all(answer.status_code == 200 for answer in answers)
            return alone.content, answers[15].content

    alone, among_others = asyncio.run(alone_then_among_others())
    assert alone == among_others
    assert alone.startswith(b"\x89PNG")
