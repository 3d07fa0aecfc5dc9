"""The page's files as they are served; tests/page opens them in a browser."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from service.http.static import FOLDER
from tests.conftest import ToyRuntime, write_bundle
from tests.service.conftest import serve
from tests.service.http.test_auth import line

VENDOR = next(path for path in sorted((FOLDER / "vendor").rglob("*")) if path.is_file())


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    write_bundle(tmp_path / "bundles" / "toy")
    with serve(tmp_path / "bundles", ToyRuntime()) as client:
        yield client


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_may_load_from_its_own_host_alone(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(each.split(" ", 1) for each in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"


def test_no_file_of_ours_names_another_host() -> None:
    files = [path for path in FOLDER.rglob("*.*") if path.suffix in {".js", ".css", ".html"}]
    ours = [path for path in files if "vendor" not in path.parts]
    assert not [path for path in ours if re.search(r"(src|href|from|import|fetch)\W+https?://", path.read_text())]


def test_every_module_is_fetched_at_once(client: TestClient) -> None:
    named = re.findall(r'(?:src|href)="page/([\w.-]+\.js)"', client.get("/").text)
    assert sorted(named) == sorted(path.name for path in FOLDER.glob("*.js"))


@pytest.mark.parametrize("path", ["/", "/page/main.js", "/page/fonts/geist.woff2"])
def test_a_browser_that_has_a_file_is_told_so(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.headers["cache-control"] == "no-cache"
    again = client.get(path, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_text_is_compressed_and_what_is_large_is_not(client: TestClient) -> None:
    assert client.get("/page/views.css").headers["content-encoding"] == "gzip"
    for path in ("fonts/geist.woff2", "vendor/swagger-ui-dist/swagger-ui-bundle.js"):
        assert "content-encoding" not in client.get(f"/page/{path}").headers


def test_what_is_not_there_is_a_problem(client: TestClient) -> None:
    for path in ("/page/absent.js", "/page/", "/page/../app.py", "/page/%2e%2e/app.py"):
        answer = client.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json"), path
    assert client.post("/page/main.js").status_code == 405


def test_the_page_opens_without_a_key_and_the_api_does_not(tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundles" / "toy")
    keys = tmp_path / "keys.toml"
    keys.write_text(line("alice"))
    with serve(tmp_path / "bundles", ToyRuntime(), keys=keys) as client:
        assert [client.get(path).status_code for path in ("/", "/page/main.js", "/methods", "/pages")] == [
            200,
            200,
            401,
            401,
        ]


@pytest.mark.parametrize("path", ["/", "/docs", "/page/base.css", f"/page/{VENDOR.relative_to(FOLDER)}"])
@pytest.mark.parametrize(
    "asked",
    [
        "bytes=0-1",
        "bytes=a-b",
        "bytes=5-1",
        "items=0-1",
        "bytes",
        "bytes=99999999-",
        f"bytes={'9' * 5000}-",
        "bytes=0-,0-",
    ],
)
def test_a_file_is_sent_whole_whatever_part_is_asked_for(client: TestClient, path: str, asked: str) -> None:
    whole = client.get(path)
    part = client.get(path, headers={"Range": asked, "If-Range": whole.headers["etag"]})
    assert (part.status_code, part.content, part.headers["accept-ranges"]) == (200, whole.content, "none")
