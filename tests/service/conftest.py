"""A client of the whole application over a toy model."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from loadtests.server_process import is_loaded
from service.app import create_app
from service.engine.runtime import HostStates, StepInputs
from service.settings import Settings
from tests.conftest import WITHIN_S, ToyRuntime, on_engine, write_bundle


class Held(ToyRuntime):
    """Past its warm-up, waits in each step until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.go = threading.Event(), threading.Event()

    def step(self, inputs: StepInputs) -> tuple[HostStates, HostStates]:
        if on_engine():
            self.entered.set()
            assert self.go.wait(WITHIN_S)
        return super().step(inputs)


class NotANumber(ToyRuntime):
    def step(self, inputs: StepInputs) -> tuple[HostStates, HostStates]:
        x, x0 = super().step(inputs)
        return HostStates(x.array * np.float32("nan")), x0


@pytest.fixture
def runtime() -> ToyRuntime:
    return ToyRuntime()


@pytest.fixture
def client(tmp_path: Path, runtime: ToyRuntime) -> Iterator[TestClient]:
    write_bundle(tmp_path / "bundles" / "toy")
    with serve(tmp_path / "bundles", runtime) as client:
        yield client


@contextmanager
def serve(bundles: Path, runtime: ToyRuntime, **changes: Any) -> Iterator[TestClient]:
    """A client of an app that has loaded its bundles."""
    app = create_app(Settings(bundles=bundles, max_batch=4, **changes), open_runtime=lambda bundle, threads: runtime)
    with TestClient(app, raise_server_exceptions=False) as client:
        wait_until_loaded(client)
        yield client


def wait_until_loaded(client: TestClient) -> None:
    while not is_loaded(client.get("/readyz")):
        time.sleep(0.001)


def generate(client: TestClient, accept: str = "*/*", **request: Any) -> Any:
    return client.post("/generate", json={"method": "toy", "seed": 1, **request}, headers={"Accept": accept})
