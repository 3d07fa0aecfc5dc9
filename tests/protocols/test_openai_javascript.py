"""OpenAI's package for JavaScript, in node and in a page of another origin."""

import base64
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Error, sync_playwright

from tests.conftest import REPOSITORY, write_bundle
from tests.deploy.conftest import in_this_process
from tests.page.conftest import PATIENCE_MS, chromium
from tests.protocols.conftest import theirs

SOURCES = Path(__file__).parent / "javascript"
BIN = Path(sys.executable).parent  # node and npm of the environment
CALL = "import('./images.js').then((m) => m.generate(process.argv[1])).then((r) => console.log(JSON.stringify(r)))"


@pytest.fixture(scope="module")
def installed() -> Path:
    """A folder with the sources and, as package-lock.json has it, the package; installed once."""
    folder = REPOSITORY / ".cache" / "javascript"
    lock = folder / "package-lock.json"
    current = lock.exists() and lock.read_bytes() == (SOURCES / lock.name).read_bytes()
    shutil.copytree(SOURCES, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(lock.name))
    if not current:
        shutil.copy(SOURCES / lock.name, folder)
        command = [BIN / "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        if subprocess.run(command, cwd=folder).returncode:
            lock.unlink()
            pytest.fail("npm could not install OpenAI's package")
    return folder


@pytest.fixture(scope="module")
def origin(installed: Path) -> Iterator[str]:
    """The origin of a page that is not the service's."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(installed))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def service(origin: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server that lists the page's origin."""
    folder = tmp_path_factory.mktemp("bundles")
    write_bundle(folder / "toy")
    with in_this_process(folder, cors_origins=[origin]) as (url, _):
        yield url


def in_page(origin: str, url: str) -> Any:
    """What the calls give in a page of the origin."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--disable-quic"])
        page = browser.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.goto(f"{origin}/index.html")
        try:
            return page.evaluate("async (url) => (await import('/images.js')).generate(url)", f"{url}/v1")
        finally:
            browser.close()


def check(answers: Any, url: str) -> None:
    request = {"class_label": "one", "seed": 7, "steps": 4}
    assert [base64.b64decode(file) for file in answers["files"]] == theirs(url, **request, n=2)
    assert answers["events"] == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert base64.b64decode(answers["streamed"]) == theirs(url, **request)[0]
    assert answers["refusal"] == [404, "model_not_found"]


def test_a_program_in_node_gets_the_bytes_of_generate(installed: Path, service: str) -> None:
    command = [BIN / "node", "--eval", CALL, f"{service}/v1"]
    ended = subprocess.run(command, cwd=installed, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    check(json.loads(ended.stdout), service)


def test_a_page_whose_origin_is_listed_gets_the_bytes_of_generate(origin: str, service: str) -> None:
    check(in_page(origin, service), service)


def test_a_page_whose_origin_is_not_listed_gets_nothing(origin: str, url: str) -> None:
    with pytest.raises(Error, match="Connection error"):
        in_page(origin, url)
