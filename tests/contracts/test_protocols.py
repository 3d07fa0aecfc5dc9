"""One engine path: a request is the same in every protocol, and so are its bytes, its refusal and its end."""

import asyncio
import base64
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from openai import OpenAI
from PIL import Image
from tritonclient.http import InferenceServerClient, InferInput

from bundle.loading import load
from service.requests.encoding import encode
from tests.conftest import SHIPPED, ToyRuntime, write_bundle
from tests.deploy.conftest import free_port, running
from tests.service.conftest import Held, serve
from trilemma import Client

BUNDLES = [load(path.parent) for path in sorted(SHIPPED.parent.glob("*/manifest.json"))]
REQUESTS = [
    ("ddim", 20, 2**64 - 1, "0", 1),
    *((bundle.manifest.name, min(5, bundle.max_steps), 7, "3", 2) for bundle in BUNDLES),
]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The URL of a real server over the shipped models, with no cache: each protocol computes for itself."""
    options = ["--log-level", "warning", "--bundles", str(SHIPPED.parent), "--cache-bytes", "0"]
    url = f"http://127.0.0.1:{(port := free_port())}"
    with running([sys.executable, "-m", "service", *options, "--port", str(port)], f"{url}/readyz"):
        yield url


@pytest.mark.parametrize(("method", "steps", "seed", "name", "n"), REQUESTS)
def test_every_protocol_gives_the_same_bytes(url: str, method: str, steps: int, seed: int, name: str, n: int) -> None:
    with Client(url) as client:
        own = client.generate(method, steps=steps, seed=seed, class_label=name, n=n)
        array = client.array(method, steps=steps, seed=seed, class_label=int(name), n=n)
        *_, streamed = client.stream(method, steps=steps, seed=seed, class_label=name, n=n)
    with OpenAI(base_url=f"{url}/v1", api_key="none") as openai:
        extra = {"seed": seed, "num_inference_steps": steps}
        theirs = openai.images.generate(model=method, prompt=name, n=n, extra_body=extra)
        *_, last = openai.images.generate(model=method, prompt=name, stream=True, partial_images=1, extra_body=extra)
    with InferenceServerClient(url.removeprefix("http://")) as triton:
        inputs = []
        for field, value, kind, dtype in (
            ("steps", steps, "INT32", np.int32),
            ("seed", seed, "UINT64", np.uint64),
            ("class_label", int(name), "INT32", np.int32),
            ("n", n, "INT32", np.int32),
        ):
            inputs.append(InferInput(field, [1], kind))
            inputs[-1].set_data_from_numpy(np.array([value], dtype=dtype))
        inferred = triton.infer(method, inputs).as_numpy("images")
    assert len(own.files) == n
    assert streamed.files == own.files  # type: ignore[union-attr]
    assert [base64.b64decode(image.b64_json) for image in theirs.data or []] == own.files
    assert base64.b64decode(last.b64_json) == own.files[0]
    assert inferred.tobytes() == array.tobytes()
    assert [encode(image[None], "png") for image in inferred] == own.files
    assert np.asarray(Image.open(io.BytesIO(own.files[0]))).std() > 10  # a picture, not a plain field


# --- ends and refusals, over a toy ---------------------------------------------------------------------------------

ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "own": ("/generate", {"method": "toy", "steps": 1000, "class_label": "one"}),
    "inference": (
        "/v2/models/toy/infer",
        {"inputs": [{"name": "steps", "shape": [1], "datatype": "INT32", "data": [1000]}]},
    ),
    "openai": ("/v1/images/generations", {"model": "toy", "prompt": "one", "num_inference_steps": 1000}),
    "openai stream": (
        "/v1/images/generations",
        {"model": "toy", "prompt": "one", "num_inference_steps": 1000, "stream": True, "partial_images": 3},
    ),
}


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[TestClient, Held]]:
    write_bundle(tmp_path / "toy")
    runtime = Held()
    with serve(tmp_path, runtime) as client:
        yield client, runtime
        runtime.go.set()


@pytest.mark.parametrize("protocol", ASKED)
def test_a_client_that_goes_away_frees_its_rows_before_the_next_step(
    held: tuple[TestClient, Held], protocol: str
) -> None:
    client, runtime = held
    service: Any = client.app.state.service  # type: ignore[attr-defined]
    path, body = ASKED[protocol]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }

    async def disconnect() -> None:
        messages = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            await asyncio.to_thread(runtime.entered.wait)
            return {"type": "http.disconnect"}

        async def send(_: Any) -> None:
            pass

        await client.app(scope, receive, send)
        while service.engine.jobs:
            await asyncio.sleep(0)

    asyncio.run(disconnect())
    runtime.go.set()
    assert client.post("/generate", json={"method": "toy", "steps": 2}).status_code == 200
    assert len(runtime.batches) == 1 + 2  # the step that was under way, and the two of another


@pytest.mark.parametrize("protocol", ASKED)
def test_what_is_refused_is_refused_in_every_protocols_form(tmp_path: Path, protocol: str) -> None:
    write_bundle(tmp_path / "toy")
    path, body = ASKED[protocol]
    wrong = json.loads(json.dumps(body).replace("1000", "1001"))
    with serve(tmp_path, ToyRuntime()) as client:
        invalid = client.post(path, json=wrong)
        service: Any = client.app.state.service  # type: ignore[attr-defined]
        service.engine.admission.max_queued_images = 0
        full = client.post(path, json=body)
        reasons = [line for line in client.get("/metrics").text.splitlines() if "rejections_total{" in line]
        requests = [line for line in client.get("/metrics").text.splitlines() if "request_seconds_count{" in line]
    errors = {"own": "detail", "inference": "error", "openai": "message", "openai stream": "message"}
    assert invalid.status_code == (422 if protocol == "own" else 400)
    assert (full.status_code, full.headers["retry-after"]) == (429, "1")
    for answer, words in ((invalid, "toy takes at most 1000"), (full, "are queued; 1 more are too many")):
        said = answer.json()["error"] if protocol.startswith("openai") else answer.json()
        assert words in said[errors[protocol]]
    assert reasons == [
        'trilemma_rejections_total{reason="invalid-request"} 1.0',
        'trilemma_rejections_total{reason="overloaded"} 1.0',
    ]
    assert [line.split("{")[1] for line in requests] == [
        f'method="toy",status="{invalid.status_code}"}} 1.0',
        'method="toy",status="429"} 1.0',
    ]
