"""What stands before the handlers: the longest body, what browsers are told, and which pages may call."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import ToyRuntime, write_bundle
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
