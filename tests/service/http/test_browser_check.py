"""Which web pages may call: their own origin's, those that CORS lists, and none under a stranger's name."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from service.http.browser_check import is_private
from tests.conftest import ToyRuntime, write_bundle
from tests.service.conftest import serve
from tests.service.http.test_auth import line

LISTED = "https://pictures.example"
UNSAFE = [
    ("POST", "/admin/reload", b""),
    ("POST", "/generate", b'{"method": "toy"}'),
    ("POST", "/v1/images/generations", b'{"model": "toy", "prompt": "one"}'),
    ("POST", "/v2/models/toy/infer", b"{}"),
    ("POST", "/v2/models/toy/versions/1/infer", b"{}"),
    ("POST", "/v2/repository/index", b"{}"),
    ("DELETE", "/requests/hers", b""),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("served")
    write_bundle(folder / "bundles" / "toy")
    with serve(folder / "bundles", ToyRuntime(), cors_origins=[LISTED], trusted_hosts=["images.example"]) as client:
        yield client


def status(client: TestClient, host: str, **headers: str) -> int:
    """Of a request for an image with these headers."""
    sent = {"host": host, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return int(client.post("/generate", json={"method": "toy"}, headers=sent).status_code)


@pytest.mark.parametrize(("method", "path", "content"), UNSAFE)
@pytest.mark.parametrize("media_type", ["text/plain", "application/json"])
@pytest.mark.parametrize(
    "browser",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:3000"},  # another port is another origin
        {"origin": "https://evil.example", "sec-fetch-site": "cross-site"},
        {"origin": "http://other.localhost", "sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site"},
    ],
)
def test_a_page_of_another_site_cannot_change_a_thing(
    client: TestClient, method: str, path: str, content: bytes, media_type: str, browser: dict[str, str]
) -> None:
    headers = {"host": "localhost:8000", "content-type": media_type, **browser}
    answer = client.request(method, path, content=content, headers=headers)
    assert answer.status_code == 403
    assert "cors-origins" in answer.text


@pytest.mark.parametrize(
    "browser",
    [
        {"origin": "http://localhost:8000"},
        {"origin": "http://localhost:8000", "sec-fetch-site": "same-origin"},
        {"origin": "https://behind.a.proxy.example", "sec-fetch-site": "same-origin"},  # which renames the host
        {"sec-fetch-site": "none"},  # its user's own doing
        {"origin": LISTED, "sec-fetch-site": "cross-site"},
        {"origin": LISTED},
        {},
    ],
)
def test_its_own_page_a_listed_one_and_a_program_may_call(client: TestClient, browser: dict[str, str]) -> None:
    assert status(client, "localhost:8000", **browser) == 200


@pytest.mark.parametrize(
    "host",
    [
        "localhost:8000",
        "127.0.0.1:8000",
        "[::1]:8000",
        "10.0.0.5:8000",
        "trilemma:8000",
        "trilemma.default.svc.cluster.local",
        "host.docker.internal:8000",
        "images.example",
        "images.example:8443",
    ],
)
def test_a_page_may_call_by_a_name_that_no_stranger_can_have(client: TestClient, host: str) -> None:
    assert status(client, host, origin=f"http://{host}") == 200


@pytest.mark.parametrize("host", ["evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "["])
def test_a_page_of_a_strangers_name_may_not_call_and_a_program_may(client: TestClient, host: str) -> None:
    refused = client.post("/generate", json={"method": "toy"}, headers={"host": host, "origin": f"http://{host}"})
    assert (refused.status_code, refused.json()["type"]) == (421, "urn:trilemma:untrusted-host")
    assert "trusted-hosts" in refused.json()["detail"]
    assert status(client, host) == 200


def test_other_sites_may_link_to_the_page(client: TestClient) -> None:
    headers = {"host": "localhost:8000", "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert client.get("/", headers=headers).status_code == 200


def test_with_keys_a_page_may_use_any_name_as_a_strangers_has_no_key(tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundles" / "toy")
    (tmp_path / "keys.toml").write_text(line("alice"))
    with serve(tmp_path / "bundles", ToyRuntime(), keys=tmp_path / "keys.toml") as client:
        page = {"origin": "http://gpu.example"}
        assert status(client, "gpu.example", **page) == 401
        assert status(client, "gpu.example", **page, authorization="Bearer secret of alice") == 200


def test_where_every_origin_is_listed_any_page_may_call(tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundles" / "toy")
    with serve(tmp_path / "bundles", ToyRuntime(), cors_origins=["*"]) as client:
        assert status(client, "gpu.example", origin="https://evil.example") == 200


@given(st.from_regex(r"[a-z0-9-]{1,20}(\.[a-z0-9-]{1,20}){0,3}\.(com|org|example|net)", fullmatch=True))
def test_no_name_of_a_public_domain_is_private(name: str) -> None:
    assert not is_private(name)


PREFLIGHT = [
    ("POST", "authorization, content-type, x-stainless-arch, x-stainless-lang, x-stainless-retry-count"),
    ("POST", "traceparent, tracestate"),
    ("POST", "inference-header-content-length"),
    ("POST", "if-none-match, x-request-id"),
    ("DELETE", "authorization"),
    ("HEAD", "authorization"),
]


@pytest.mark.parametrize(("method", "names"), PREFLIGHT)
def test_a_listed_page_may_use_every_method_and_the_headers_of_any_client(
    client: TestClient, method: str, names: str
) -> None:
    wanted = {"access-control-request-method": method, "access-control-request-headers": names}
    allowed = client.options("/generate", headers={"origin": LISTED, **wanted})
    assert allowed.status_code == 200
    assert method in allowed.headers["access-control-allow-methods"].split(", ")
    assert set(names.split(", ")) <= set(allowed.headers["access-control-allow-headers"].lower().split(", "))
    assert client.options("/generate", headers={"origin": "https://evil.example", **wanted}).status_code == 400


def test_a_listed_page_may_read_every_header_of_ours(client: TestClient) -> None:
    page = {"origin": LISTED}
    binary = {"parameters": {"binary_data_output": True}}
    calls: list[dict[str, Any]] = [
        {"url": "/generate", "json": {"method": "toy", "seed": 1}},
        {"url": "/generate", "json": {"method": "toy", "seed": 1}},
        {"url": "/v2/models/toy/infer", "json": binary},
        {"url": "/v1/images/generations", "json": {"model": "toy", "prompt": "one"}},
    ]
    answers = [client.post(**call, headers=page) for call in calls]
    standard = {"content-type", "content-length", "cache-control"}  # the safelist of the Fetch standard
    for_browsers = (
        "access-control-",
        "x-content-type",
        "x-frame",
        "referrer",
        "cross-origin",
        "content-security",
        "vary",
    )
    for answer in answers:
        assert answer.status_code == 200
        ours = {name for name in answer.headers if not name.startswith(for_browsers)} - standard
        exposed = answer.headers["access-control-expose-headers"].lower().split(", ")
        assert ours <= set(exposed)
