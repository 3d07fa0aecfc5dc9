"""What stands before the handlers: the longest body, what browsers are told, and which pages may call."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from httpx import ASGITransport, AsyncClient
from prometheus_client.parser import text_string_to_metric_families
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.http.body_limit import MAX_UPLOADS, BodyLimit
from service.telemetry.metrics import Metrics
from tests.conftest import ToyRuntime, write_bundle
from tests.picture_files import noisy, png
from tests.service.conftest import serve

PAGE = "https://pictures.example"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    write_bundle(tmp_path / "bundles" / "toy")
    with serve(
        tmp_path / "bundles", ToyRuntime(), max_body_bytes=100, max_upload_bytes=100, cors_origins=[PAGE]
    ) as client:
        yield client


def padded(length: int) -> bytes:
    return b'{"method": "toy"}'.ljust(length)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_just_the_limit_passes_and_a_byte_more_does_not(client: TestClient, chunked: bool) -> None:
    def post(body: bytes) -> int:
        content = iter([body[:60], body[60:]]) if chunked else body
        return client.post("/generate", content=content, headers={"content-type": "application/json"}).status_code

    assert post(padded(100)) == 200
    assert post(padded(101)) == 413


def test_a_body_too_long_ends_as_a_problem_that_says_how_long_it_may_be(client: TestClient) -> None:
    answer = client.post("/generate", content=padded(101), headers={"content-type": "application/json"})
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.json()["type"], answer.json()["max_bytes"]) == ("urn:trilemma:body-too-large", 100)
    assert answer.headers["x-request-id"]
    families = text_string_to_metric_families(client.get("/metrics").text)
    refused = {
        s.labels["reason"]: s.value for f in families for s in f.samples if s.name == "trilemma_rejections_total"
    }
    assert refused == {"body-too-large": 1}


def test_nothing_of_a_body_declared_too_long_is_read(client: TestClient) -> None:
    headers = {"content-type": "application/json", "content-length": "1000000000"}
    app = client.app
    sent: list[dict[str, object]] = []

    async def call() -> None:
        async def receive() -> dict[str, object]:
            raise AssertionError("the body was read")

        async def send(message: dict[str, object]) -> None:
            sent.append(message)

        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": "POST", "path": "/generate", "headers": raw, "query_string": b""}
        await app(scope, receive, send)

    assert client.portal is not None
    client.portal.call(call)
    assert sent[0]["status"] == 413


@pytest.mark.parametrize("path", ["/methods", "/healthz", "/metrics", "/nowhere", "/docs"])
def test_every_answer_tells_browsers_to_be_careful(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "default-src 'none'" in headers["content-security-policy"]


def test_a_page_that_is_listed_may_call_and_read_the_headers_and_another_may_not(client: TestClient) -> None:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "content-type, authorization"}
    allowed = client.options("/generate", headers={"origin": PAGE, **asked})
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, PAGE)
    assert client.options("/generate", headers={"origin": "https://other.example", **asked}).status_code == 400
    answer = client.post("/generate", json={"method": "toy"}, headers={"origin": PAGE})
    assert "Trilemma-Seed" in answer.headers["access-control-expose-headers"]
    other = client.post("/generate", json={"method": "toy"}, headers={"origin": "https://other.example"})
    assert "access-control-allow-origin" not in other.headers


# --- pictures -------------------------------------------------------------------------------------------------------


@pytest.fixture
def uploading(tmp_path: Path) -> Iterator[TestClient]:
    write_bundle(tmp_path / "bundles" / "toy")
    with serve(tmp_path / "bundles", ToyRuntime(), max_body_bytes=1000, max_upload_bytes=100_000) as client:
        yield client


JSON = {"content-type": "application/json"}


def test_a_request_with_a_picture_may_be_longer(uploading: TestClient) -> None:
    picture = png(noisy(150, 150))
    assert 1000 < len(picture) < 100_000
    body = {"method": "toy", "image": picture}
    assert uploading.post("/generate", json=body).status_code == 200
    assert uploading.post("/invert", json=body).status_code == 200
    for path in ("/v1/images/generations", "/v2/models/toy/infer", "/admin/reload"):
        assert uploading.post(path, json=body).status_code == 413
    refused = uploading.post("/generate", content=b" " * 100_001, headers=JSON)
    assert (refused.status_code, refused.json()["max_bytes"]) == (413, 100_000)


@pytest.mark.parametrize("piece", [b'"a":1,', b"[", b"{", b'"\\n', b"1,"])
def test_a_long_body_has_no_more_structure_than_a_short_one(uploading: TestClient, piece: bytes) -> None:
    content = b'{"method": "toy", "settings": ' + piece * 2000 + b"}"
    refused = uploading.post("/generate", content=content, headers=JSON)
    assert (refused.status_code, refused.json()["type"]) == (413, "urn:trilemma:body-too-large")
    sneaked = {"content-type": "application/json; of=multipart/form-data"}
    assert uploading.post("/generate", content=content, headers=sneaked).status_code == 413


def test_only_so_many_long_bodies_are_kept_at_a_time() -> None:
    """Each until it is answered; then others have its place."""

    async def ask() -> list[int]:
        go, statuses = asyncio.Event(), []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await go.wait()
            await Response(status_code=204)(scope, receive, send)

        limit = BodyLimit(app, max_bytes=10, max_upload_bytes=100, timeout_s=60, metrics=Metrics())

        async def post(length: int) -> None:
            async with AsyncClient(transport=ASGITransport(limit), base_url="http://test") as client:
                statuses.append((await client.post("/generate", content=bytes(length))).status_code)

        held = [asyncio.create_task(post(100)) for _ in range(MAX_UPLOADS)]
        await asyncio.sleep(0)
        while limit._uploads < MAX_UPLOADS:
            await asyncio.sleep(0.001)
        await post(100)
        go.set()
        await asyncio.gather(*held, post(10))
        await post(100)
        return statuses

    first, *others = asyncio.run(ask())
    assert first == 503
    assert others == [204] * (MAX_UPLOADS + 2)
