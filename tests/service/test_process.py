"""The service as a process of its own, over the shipped models: what it imports, what it answers, how it ends."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from loadtests.server_process import is_loaded
from tests.conftest import PATIENT, REPOSITORY, WITHIN_S
from tests.deploy.conftest import wait_until

FORBIDDEN = {"torch", "diffusers", "onnx", "onnxscript", "matplotlib", "safetensors", "export", "loadtests", "grpc"}


@pytest.fixture
def server() -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """The URL of a ready server, and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "service", "--port", str(port), *PATIENT], cwd=REPOSITORY)
    url = f"http://127.0.0.1:{port}"
    try:
        asyncio.run(wait_until_ready(url, process))
        yield url, process
    finally:
        process.kill()
        process.wait()


async def wait_until_ready(url: str, process: "subprocess.Popen[Any]") -> None:
    async with httpx.AsyncClient(base_url=url) as client:
        while process.poll() is None:
            await asyncio.sleep(0.05)
            try:
                ready = await client.get("/readyz")
            except httpx.TransportError:
                continue
            if is_loaded(ready):
                assert ready.is_success, ready.text
                return
    raise AssertionError(f"the server ended with {process.returncode}")


def accepted(metrics: str) -> float:
    """How many images the server has taken on so far."""
    wanted = {"trilemma_waiting_images", "trilemma_active_images", "trilemma_images_total"}
    samples = [s for family in text_string_to_metric_families(metrics) for s in family.samples]
    return sum(s.value for s in samples if s.name in wanted)


def test_the_service_imports_nothing_of_training_or_export_nor_grpc_unless_asked() -> None:
    script = "import sys, service.__main__; print(*{name.partition('.')[0] for name in sys.modules})"
    output = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, check=True, text=True)
    imported = set(output.stdout.split())
    assert {"fastapi", "onnxruntime", "numpy"} <= imported
    assert not imported & FORBIDDEN


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_after_every_accepted_request_has_its_answer(
    server: tuple[str, "subprocess.Popen[bytes]"], signum: signal.Signals
) -> None:
    url, process = server

    async def signal_under_load() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=url) as client:
            bodies = [{"method": "ddim", "steps": 20, "seed": seed, "n": 4} for seed in range(12)]
            accept = [{"Accept": "text/event-stream" if seed % 2 else "application/json"} for seed in range(12)]
            requests = [
                asyncio.create_task(client.post("/generate", json=body, headers=headers))
                for body, headers in zip(bodies, accept, strict=True)
            ]
            while accepted((await client.get("/metrics")).text) < 12 * 4:
                await asyncio.sleep(0.01)
            os.kill(process.pid, signum)
            return await asyncio.gather(*requests)

    answers = asyncio.run(signal_under_load())
    assert [answer.status_code for answer in answers] == [200] * 12
    assert all("event: completed" in stream.text for stream in answers[1::2])
    assert process.wait(WITHIN_S) == 0


def test_half_a_body_that_was_sent_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ["--port", str(port), "--bundles", str(tmp_path), "--shutdown-s", "1"]
    process = subprocess.Popen([sys.executable, "-m", "service", *flags], cwd=REPOSITORY)
    try:
        while True:
            try:
                stuck = socket.create_connection(("127.0.0.1", port))
                break
            except ConnectionRefusedError:
                assert process.poll() is None
        with stuck:
            head = "POST /generate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"
            stuck.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
            assert b"100" in stuck.recv(100)  # its handler waits for the body
            stuck.sendall(b"half")
            process.terminate()
            process.wait(WITHIN_S)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_before_it_listens_ends_it_at_once(signum: signal.Signals) -> None:
    script = f"""if True:
        import signal, sys, time, uvicorn
        from service.__main__ import main

        uvicorn.Server.run = lambda *_, **__: (signal.raise_signal({int(signum)}), time.sleep(6000))
        sys.argv = ["serve", "--port", "0"]
        main()
    """
    assert subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, timeout=WITHIN_S).returncode == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port", "abc"], "--port"),
        (["--max-batch", "0"], "--max-batch"),
        (["--bundles", "/nowhere"], "--bundles"),
        (["--bundles", __file__], "--bundles"),
        (["--host", "192.0.2.1", "--port", "0"], "192.0.2.1"),  # of no machine: RFC 5737
        (["--prot", "1"], "--prot"),
        (["--port", "0", "--methods", "ddim,nowhere,vdm"], "has no nowhere; it has ddgan, ddgan-cifar10, ddim, "),
        (["--port", "0", "--keys", "/nowhere"], "/nowhere"),
    ],
)
def test_a_setting_that_cannot_be_meant_ends_it_with_one_line(flags: list[str], message: str) -> None:
    command = [sys.executable, "-m", "service", *flags, "--log-level", "error"]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert ended.returncode == 2
    *usage, line = ended.stderr.splitlines()
    assert line.startswith("./run serve: ")
    assert message in line
    assert not usage or usage[0].startswith("usage: ")


def test_too_few_open_files_end_it_with_one_line_and_few_serve_callers_and_probes() -> None:
    def started(files: int) -> "subprocess.Popen[str]":
        command = f'ulimit -n {files}; exec "{sys.executable}" -m service --port {port} --log-level error'
        return subprocess.Popen(["sh", "-c", command], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with started(63) as refused:
        _, line = refused.communicate()
        assert (refused.returncode, line.count("\n")) == (2, 1)
        assert "ulimit -n" in line
    with started(64) as process, ExitStack() as stack:
        try:
            asyncio.run(wait_until_ready(f"http://127.0.0.1:{port}", process))
            for _ in range(50):
                stack.enter_context(socket.create_connection(("127.0.0.1", port))).sendall(b"GET / HT")
            body = {"method": "ddim", "steps": 2}
            wait_until(lambda: httpx.get(f"http://127.0.0.1:{port}/healthz").is_success)
            wait_until(lambda: httpx.post(f"http://127.0.0.1:{port}/generate", json=body).is_success)
        finally:
            process.terminate()


def test_a_port_that_is_taken_is_found_before_any_model_is_loaded() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "service", "--port", port]
        ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert ended.returncode == 2
    line = ended.stderr.strip()
    assert line.startswith("./run serve: ")
    assert "Address already in use" in line
    assert port in line
    assert "\n" not in line


def test_the_readmes_command_gives_the_same_picture_alone_and_among_thirty_others(
    server: tuple[str, "subprocess.Popen[bytes]"],
) -> None:
    url, _ = server
    body = {"method": "ddim", "steps": 20, "seed": 7, "class_label": 3}
    headers = {"Accept": "image/png"}

    async def alone_then_among_others() -> tuple[bytes, bytes]:
        async with httpx.AsyncClient(base_url=url) as client:
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
