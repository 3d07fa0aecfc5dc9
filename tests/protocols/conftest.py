"""A real server of a toy model, for the clients of other people's protocols."""

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import ToyRuntime, write_bundle
from tests.deploy.conftest import in_this_process
from tests.service.conftest import Held

KEY, OTHER_KEY = "secret of alice", "clé de Zoë"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("bundles")
    write_bundle(folder / "toy")
    write_bundle(folder / "bad", name="bad", format_version=7)
    with in_this_process(folder, max_queued_images=64) as (url, _):
        yield url


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[str, Held]]:
    """The URL of a server that waits in its first step until it is let go, and its runtime."""
    write_bundle(tmp_path / "toy")
    runtime = Held()
    with in_this_process(tmp_path, runtime, max_batch=4, max_queued_images=64) as (url, _):
        yield url, runtime
        runtime.go.set()


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server that wants KEY or OTHER_KEY."""
    folder = tmp_path_factory.mktemp("locked")
    write_bundle(folder / "bundles" / "toy")
    digests = {name: hashlib.sha256(key.encode()).hexdigest() for name, key in (("alice", KEY), ("zoe", OTHER_KEY))}
    (folder / "keys.toml").write_text("".join(f'[{name}]\nsha256 = "{digest}"\n' for name, digest in digests.items()))
    with in_this_process(folder / "bundles", ToyRuntime(), keys=folder / "keys.toml") as (url, _):
        yield url


def own(url: str, accept: str = "application/x-npy", **fields: Any) -> bytes:
    """What `POST /generate` answers."""
    body = {"method": "toy", **fields}
    # Certificates are not wanted over plain HTTP, and take long to load.
    answer = httpx.post(f"{url}/generate", json=body, headers={"Accept": accept}, verify=False)  # noqa: S501
    assert answer.is_success, answer.text
    return answer.content


def files(response: Any) -> list[bytes]:
    """Of an answer in OpenAI's form."""
    return [base64.b64decode(image.b64_json) for image in response.data]


def theirs(url: str, **fields: Any) -> list[bytes]:
    """The files in the JSON answer of `POST /generate`."""
    images = json.loads(own(url, "application/json", **fields))["images"]
    return [base64.b64decode(image["data"]) for image in images]
