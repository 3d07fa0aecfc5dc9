"""`./run tour FOLDER`: shows the page to a browser, saves pictures of it, and prints how quick it was."""

import statistics
import sys
from pathlib import Path

import httpx
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.deploy.conftest import free_port, running
from tests.page.conftest import DESKTOP, PHONE, chromium, settled
from tests.page.test_edit import paint_lower_half

CLICKS = 20
# Of the data set that the page begins with; {7} is the name of its class number 7.
PICTURES = {
    "page-generate": ("#generate?class_label={7}&seed=7", {}),
    "page-race": ("#race?class_label={7}&seed=7", {}),
    "page-frontier": ("#frontier?class_label={8}&seed=8", {}),
    "page-edit": ("#edit?method=ddim&class_label=7&steps=6&solver=dpmpp_2m&seed=1", {}),
    "page-load": ("#load", {"color_scheme": "dark"}),
    "page-phone": ("#generate?class_label={8}&seed=7&n=9", {"viewport": PHONE, "color_scheme": "dark"}),
}
WATCH = """
    addEventListener('click', () => { window.clicked = performance.now(); }, true);
    new MutationObserver(() => {
        if (!window.interactive && document.querySelector('.go button')) window.interactive = performance.now();
    }).observe(document, { childList: true, subtree: true });
"""
SEEN = """() => new Promise((resolve) => {
    const look = () => {
        const done = document.querySelector('.notice').dataset.kind === 'done';
        requestAnimationFrame(done ? () => resolve(performance.now() - window.clicked) : look);
    };
    requestAnimationFrame(look);
})"""


def load(url: str) -> None:
    """Something to see for the view Load."""
    for steps, n in ((20, 16), (4, 4), (10, 32), (20, 8)):
        for method in httpx.get(f"{url}/methods").json():
            channels = method["image_shape"][0]  # in colour an image takes longer
            body = {"method": method["method"], "steps": min(steps, method["steps"]["max"]), "n": -(-n // channels)}
            httpx.post(f"{url}/generate", json=body, timeout=60).raise_for_status()


def edit(page: Page) -> None:
    """A seven, whose lower half becomes that of a three in four ways, and an image between two others."""
    page.get_by_role("button", name="Take the seed's image").click()
    expect(page.get_by_text("Mark what is to be painted anew, or")).to_be_visible()
    page.get_by_role("radio", name="3", exact=True).check()
    page.get_by_role("spinbutton", name="Steps").fill("20")
    page.get_by_role("spinbutton", name="Images").fill("4")
    page.get_by_role("slider", name="strength").fill("1")
    paint_lower_half(page)
    page.get_by_role("button", name="Paint").click()
    for box, seed in zip(page.get_by_role("form", name="Two images").get_by_role("textbox").all(), "12", strict=True):
        box.fill(seed)
    settled(page)
    page.get_by_role("button", name="Find the way").click()
    expect(page.get_by_text("17 images.")).to_be_visible()
    page.get_by_role("slider", name="Between").fill("8")


def photograph(browser: Browser, url: str, folder: Path) -> None:
    methods = httpx.get(f"{url}/methods").json()
    classes = max(methods, key=lambda method: method["image_shape"][0])["classes"]
    for name, (address, options) in PICTURES.items():
        page = browser.new_context(**{"viewport": DESKTOP, **options}).new_page()
        page.goto(f"{url}/{address.format(*classes)}")
        if name == "page-load":
            for _ in range(8):
                load(url)
        if name == "page-edit":
            edit(page)
        settled(page)
        page.wait_for_timeout(500)  # for what the last image brings with it
        path = folder / f"{name}.png"
        page.screenshot(path=path, full_page=options.get("viewport") is None, animations="disabled")
        Image.open(path).convert("RGB").save(path, optimize=True)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
        page.context.close()


def measure(browser: Browser, url: str) -> None:
    """How soon a first visitor can press the button, what was sent for it, and how long a 4-step image takes."""
    interactive = []
    for _ in range(5):
        page = browser.new_context(viewport=DESKTOP).new_page()
        page.add_init_script(WATCH)
        sizes: list[float] = []
        session = page.context.new_cdp_session(page)
        session.send("Network.enable")
        session.on("Network.loadingFinished", lambda event, sizes=sizes: sizes.append(event["encodedDataLength"]))
        page.goto(f"{url}/#generate?steps=4", wait_until="networkidle")
        interactive.append(page.evaluate("window.interactive"))
    print(f"interactive after {statistics.median(interactive):.0f} ms (at most {max(interactive):.0f})")
    print(f"{sum(sizes) / 1000:.0f} kB in {len(sizes)} answers")
    over = []
    for _ in range(CLICKS):
        page.get_by_role("button", name="Draw another seed and start").click()
        seen = page.evaluate(SEEN)
        with_unit = page.locator(".under .clock").inner_text().split()
        over.append(seen - float(with_unit[0]) * (1000 if with_unit[1] == "s" else 1))
    print(
        f"4 steps: seen {statistics.median(over):.0f} ms (at most {max(over):.0f}) after the click, less the server's"
    )


def main() -> None:
    folder = Path(sys.argv[1])
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "service", "--port", str(port), "--log-level", "warning"]
    with running(command, f"{url}/readyz"), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--disable-quic"])
        measure(browser, url)
        photograph(browser, url, folder)
        browser.close()


if __name__ == "__main__":
    main()
