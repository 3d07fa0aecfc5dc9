"""A real browser, Debian's Chromium, at the real server."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.conftest import PATIENT, WITHIN_S
from tests.deploy.conftest import free_port, running

DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 320, "height": 700}
OpenPage = Callable[..., Page]
MNIST = "ddgan,ddim,latent,vdm"
PATIENCE_MS = 1000 * WITHIN_S

expect.set_options(timeout=PATIENCE_MS)


def chromium() -> str:
    """The machine's own, else Debian's, installed."""
    if not (found := shutil.which("chromium")):
        assert os.geteuid() == 0, "these tests need Chromium: install Debian's package chromium"
        for command in ("update", "install --yes --no-install-recommends chromium"):
            subprocess.run(["apt-get", "-qq", *command.split()], check=True)
        found = shutil.which("chromium")
    assert found
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--disable-quic"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    """The URL of the real server over the shipped models of MNIST; its queue holds one request of 64 images."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "service", "--port", str(port), "--max-queued-images", "64", "--methods", MNIST]
    with running([*command, *PATIENT, "--log-level", "warning"], f"{url}/readyz"):
        yield url


@pytest.fixture
def opened(browser: Browser) -> Iterator[OpenPage]:
    """Opens an address in a window of its own; fails if the page errs, breaks its policy or asks another host."""
    contexts, trouble = [], []

    def open_page(address: str, *, expected: str = "$nothing", **options: Any) -> Page:
        """`expected` matches the console's errors that belong to the test."""
        context = browser.new_context(
            **{"viewport": DESKTOP, "permissions": ["clipboard-read", "clipboard-write"], **options}
        )
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on(
            "console",
            lambda m: trouble.append(m.text) if m.type == "error" and not re.search(expected, m.text) else None,
        )
        host = address.split("/")[2]
        page.on("request", lambda r: trouble.append(r.url) if r.url.startswith("http") and host not in r.url else None)
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not trouble


def settled(page: Page) -> None:
    """Once the view's images are finished; Load has none."""
    expect(page.locator("section:visible h2")).to_be_visible()
    for tiles in page.locator("section:visible .tiles").all():
        expect(tiles).to_have_attribute("data-state", "finished")
    if page.locator("section[data-view=load]").is_visible():
        expect(page.locator("section[data-view=load] .legend b").last).to_be_visible()


def hold_clock(page: Page) -> None:
    """Lets no timer of the page's run from now on, so that what it shows for a moment stays."""
    page.clock.install()
    page.clock.pause_at(datetime.now(UTC) + timedelta(days=1))


def rows(service: str) -> float:
    """Images in the engine."""
    lines = httpx.get(f"{service}/metrics").text.splitlines()
    return sum(
        float(line.split()[1]) for line in lines if line.startswith(("trilemma_active_im", "trilemma_waiting_im"))
    )
