"""The head of a request: HEAD wherever there is GET, no head that is too long, and lists in several lines."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from starlette.routing import Route

from service.http.request_head import MAX_HEADERS
from tests.conftest import ToyRuntime, write_bundle
from tests.service.conftest import serve
from tests.service.http.test_auth import line

GET = [
    "/",
    "/healthz",
    "/readyz",
    "/metrics",
    "/load",
    "/methods",
    "/docs",
    "/openapi.json",
    "/page/main.js",
    "/v1/models",
    "/v1/models/toy",
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/toy",
    "/v2/models/toy/config",
    "/v2/models/toy/ready",
    "/v2/models/toy/versions/1",
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("served")
    write_bundle(folder / "bundles" / "toy")
    with serve(folder / "bundles", ToyRuntime(), max_header_bytes=2000) as client:
        yield client


@pytest.mark.parametrize("path", GET)
def test_head_has_the_headers_of_get_and_no_body(client: TestClient, path: str) -> None:
    get, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    changing = {"x-request-id", "content-length"} if path == "/metrics" else {"x-request-id"}
    assert {n: v for n, v in head.headers.items() if n not in changing} == {
        n: v for n, v in get.headers.items() if n not in changing
    }


def test_head_of_what_has_no_get_names_its_methods(client: TestClient) -> None:
    head = client.head("/generate")
    assert (head.status_code, head.headers["allow"], head.content) == (405, "POST", b"")


@pytest.mark.parametrize(
    "headers",
    [
        [("x", "x" * 3000)],
        [("x" * 3000, "x")],
        [(f"x{number}", "") for number in range(MAX_HEADERS + 1)],
    ],
    ids=["a value", "a name", "many"],
)
def test_a_head_that_is_too_long_is_refused_before_its_key_is_looked_at(
    tmp_path: Path, headers: list[tuple[str, str]]
) -> None:
    write_bundle(tmp_path / "bundles" / "toy")
    (tmp_path / "keys.toml").write_text(line("alice"))
    with serve(tmp_path / "bundles", ToyRuntime(), max_header_bytes=2000, keys=tmp_path / "keys.toml") as client:
        answer = client.post("/generate", json={"method": "toy"}, headers=headers)
        assert (answer.status_code, answer.json()["type"]) == (431, "urn:trilemma:headers-too-large")
        assert client.get("/methods").status_code == 401


@pytest.mark.parametrize("path", [f"/{'x' * 3000}", f"/healthz?{'x' * 3000}", "/healthz?" + "x&" * 1500])
def test_a_target_that_is_too_long_is_refused(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 431


def test_a_head_of_just_the_limit_passes(client: TestClient) -> None:
    target, sent = b"/healthz", client.build_request("GET", "/healthz").headers.raw
    left = 2000 - len(target) - sum(len(name) + len(value) for name, value in sent) - len("x")
    assert client.get("/healthz", headers={"x": "x" * left}).status_code == 200
    assert client.get("/healthz", headers={"x": "x" * (left + 1)}).status_code == 431


def test_both_framings_are_refused(client: TestClient) -> None:
    headers = {"content-length": "17", "transfer-encoding": "chunked", "content-type": "application/json"}
    answer = client.post("/generate", content=b'{"method": "toy"}', headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:trilemma:malformed-request")


def test_a_list_may_come_in_several_lines(client: TestClient) -> None:
    body = {"method": "toy", "seed": 1}
    picture = client.post("/generate", json=body, headers=[("accept", "text/html"), ("accept", "image/webp;q=0.5")])
    assert picture.headers["content-type"] == "image/webp"
    tags = [("accept", "image/webp"), ("if-none-match", '"a"'), ("if-none-match", picture.headers["etag"])]
    assert client.post("/generate", json=body, headers=tags).status_code == 304


def test_every_route_that_has_get_is_tried_here(client: TestClient) -> None:
    app = client.app
    paths = {route.path for route in app.routes if isinstance(route, Route) and "GET" in (route.methods or ())}  # type: ignore[attr-defined]
    described = {path for path, item in client.get("/openapi.json").json()["paths"].items() if "get" in item}
    not_here = {"/redoc", "/docs/oauth2-redirect"}
    tried = {path.replace("toy", "{model}").replace("versions/1", "versions/{version}") for path in GET}
    missing = (paths | described) - not_here - tried
    assert {path for path in missing if "versions" not in path} == set()
