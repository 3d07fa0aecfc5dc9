"""The view Generate, used as a person would."""

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.conftest import PATIENT
from tests.deploy.conftest import free_port, running, wait_until
from tests.page.conftest import PHONE, OpenPage, hold_clock, rows

LINK = "#generate?method=ddim&class_label=3&steps=4&solver=ddim&eta=0&seed=7"
BODY = {"method": "ddim", "class_label": 3, "steps": 4, "solver": "ddim", "eta": 0, "seed": 7}


def picture(service: str, **body: Any) -> bytes:
    """The PNG that the API gives."""
    answer = httpx.post(f"{service}/generate", json=body, headers={"Accept": "image/png"})
    return answer.raise_for_status().content


def shown(page: Page, index: int = 0) -> bytes:
    """The file that the page shows, once it is finished."""
    finished(page)
    source = page.locator("section:visible .tiles img").nth(index).get_attribute("src") or ""
    return base64.b64decode(source.removeprefix("data:image/png;base64,"))


def finished(page: Page) -> None:
    expect(page.locator("section:visible .tiles").first).to_have_attribute("data-state", "finished")


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def test_pressing_once_gives_the_very_image_that_the_api_gives(service: str, opened: OpenPage) -> None:
    page = opened(service)
    page.get_by_role("radio", name="latent").check()
    page.get_by_role("radio", name="8", exact=True).check()
    page.get_by_role("radio", name="dpmpp_2m").check()
    page.get_by_role("spinbutton", name="Steps").fill("5")
    page.get_by_role("textbox", name="Seed").fill("11")
    press(page, "Generate")
    assert shown(page) == picture(service, method="latent", class_label=8, solver="dpmpp_2m", steps=5, seed=11)
    expect(page.get_by_text("1 image of 8 by latent, 5 steps, seed 11 in")).to_be_visible()
    assert page.locator(".facts").inner_text().split()[:4] == ["Seed", "11", "Steps", "5"]


def test_the_image_is_seen_to_form_step_by_step(service: str, opened: OpenPage) -> None:
    page = opened(f"{service}/#generate?method=ddim")
    page.get_by_role("spinbutton", name="Steps").fill("10")
    press(page, "Generate")
    finished(page)
    film = page.locator(".film img")
    sources = film.evaluate_all("images => images.map((image) => image.src)")
    assert len(set(sources)) == 10
    assert [film.nth(i).get_attribute("alt") for i in (0, 9)] == ["After step 1", "After step 10"]
    assert page.get_by_role("progressbar").evaluate("bar => bar.value / bar.max") == 1


def test_a_link_gives_the_same_image_to_whoever_opens_it(service: str, opened: OpenPage) -> None:
    page = opened(f"{service}/#generate?method=ddim")
    page.get_by_role("textbox", name="Seed").fill("18446744073709551615")  # which is no number of JavaScript's
    page.get_by_role("slider", name="eta").press("End")
    page.get_by_role("spinbutton", name="Steps").fill("4")
    press(page, "Generate")
    image = shown(page)
    assert image == picture(service, **{**BODY, "seed": 2**64 - 1, "eta": 1})
    assert shown(opened(page.url)) == image


def test_the_controls_are_the_solvers_own_settings(service: str, opened: OpenPage) -> None:
    """Whatever they are called: the page knows no setting by its name."""
    page = opened(f"{service}/#generate?method=latent")
    sliders = page.locator("section:visible .inspector input[type=range]:not([aria-label=Steps])")

    def choose(group: str, name: str) -> None:
        page.get_by_role("group", name=group).get_by_role("radio", name=name).check()

    for method in httpx.get(f"{service}/methods").json():
        choose("Method", method["method"])
        for solver in method["solvers"]:
            if len(method["solvers"]) > 1:
                choose("Solver", solver["name"])
            expect(sliders).to_have_count(len(solver["settings"]))
            for name, setting in solver["settings"].items():
                slider = page.get_by_role("slider", name=name)
                limits = [float(slider.get_attribute(limit) or "") for limit in ("min", "max")]
                assert limits == [setting["min"], setting["max"]]
                assert float(slider.input_value()) == pytest.approx(setting["default"])


def test_a_setting_that_is_no_eta_is_sent_and_kept_in_the_link(service: str, opened: OpenPage) -> None:
    page = opened(f"{service}/#generate?method=latent&class_label=3")
    page.get_by_role("radio", name="langevin").check()
    page.get_by_role("spinbutton", name="Steps").fill("4")
    page.get_by_role("textbox", name="Seed").fill("7")
    page.get_by_role("slider", name="step_size").press("Home")
    press(page, "Generate")
    settings = {"step_size": 0.01}
    expected = picture(service, method="latent", class_label="3", steps=4, seed=7, solver="langevin", settings=settings)
    assert shown(page) == expected
    assert "step_size=0.01" in page.url
    assert shown(opened(page.url)) == expected
    hold_clock(page)
    press(page, "Copy as Python")
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert '"settings": {"step_size":0.01}' in page.evaluate("navigator.clipboard.readText()")


def test_a_link_to_what_is_not_served_says_so_and_generates_nothing(service: str, opened: OpenPage) -> None:
    page = opened(f"{service}/#generate?method=ddim&steps=5000&class_label=cat&seed=7")
    expect(page.get_by_role("status").first).to_have_text(
        "This link asks for steps=5000, class_label=cat, which is not to be had here."
    )
    expect(page.locator(".tiles")).to_have_attribute("data-state", "noise")


@pytest.mark.parametrize("n", [1, 3])
def test_the_download_and_both_snippets_write_the_same_file(
    service: str, opened: OpenPage, tmp_path: Path, n: int
) -> None:
    page = opened(f"{service}/{LINK}&n={n}")
    finished(page)
    with page.expect_download() as download:
        press(page, "Download PNG")
    expected = picture(service, **BODY, n=n)
    assert download.value.path().read_bytes() == expected
    hold_clock(page)
    copied = page.get_by_role("button", name="Copied")
    for button, command in (("Copy as curl", ["bash", "-c"]), ("Copy as Python", [sys.executable, "-c"])):
        press(page, button)
        expect(copied).to_be_visible()
        page.clock.run_for(2000)
        expect(copied).to_have_count(0)
        folder = tmp_path / button
        folder.mkdir()
        subprocess.run([*command, page.evaluate("navigator.clipboard.readText()")], cwd=folder, check=True)
        written = folder / download.value.suggested_filename
        assert written.read_bytes() == expected


def test_the_dice_draws_another_seed_and_the_first_image_is_kept(service: str, opened: OpenPage) -> None:
    page = opened(f"{service}/{LINK}")
    first = shown(page)
    press(page, "Draw another seed and start")
    expect(page.get_by_role("list").last.get_by_role("button")).to_have_count(2)
    assert "seed=7&" not in page.url
    assert shown(page) != first
    page.get_by_role("button", name="Show 3 by ddim, 4 steps, seed 7", exact=True).click()
    assert shown(page) == first
    assert page.url.endswith(f"{LINK}&n=1")
    assert page.get_by_role("textbox", name="Seed").input_value() == "7"


def test_an_image_from_the_history_takes_the_place_of_one_that_forms(service: str, opened: OpenPage) -> None:
    page = opened(f"{service}/{LINK}")
    first = shown(page)
    page.get_by_role("spinbutton", name="Steps").fill("1000")
    page.get_by_role("spinbutton", name="Images").fill("64")
    press(page, "Generate")
    expect(page.locator(".tiles")).to_have_attribute("data-state", "forming")
    page.get_by_role("button", name="Show 3 by ddim, 4 steps, seed 7", exact=True).click()
    wait_until(lambda: rows(service) == 0)
    expect(page.get_by_role("button", name="Generate", exact=True)).to_be_visible()
    assert (shown(page), page.locator(".tiles img").count()) == (first, 1)
    expect(page.get_by_text("1 image of 3 by ddim, 4 steps, seed 7 in")).to_be_visible()


def test_the_slider_says_what_was_measured_at_its_value(service: str, opened: OpenPage) -> None:
    page = opened(f"{service}/#generate?method=ddim&steps=10&eta=1")
    (method,) = [each for each in httpx.get(f"{service}/methods").json() if each["method"] == "ddim"]
    points = {p["steps"]: p for p in method["measured"]["points"] if p["settings"] == {"eta": 1}}
    assert page.locator(".mark").count() == len(points)
    slider = page.get_by_role("slider", name="Steps")
    assert f"distance {points[10]['frechet_distance']:.3g}" in (slider.get_attribute("aria-valuetext") or "")
    slider.press("ArrowLeft")
    assert "not measured" in (slider.get_attribute("aria-valuetext") or "")
    expect(
        page.get_by_text(f"Not measured at {page.get_by_role('spinbutton', name='Steps').input_value()}")
    ).to_be_visible()


@pytest.mark.parametrize("leave", [lambda page: press(page, "Stop"), lambda page: page.goto("about:blank")])
def test_stopping_or_leaving_frees_the_rows(service: str, opened: OpenPage, leave: Any) -> None:
    page = opened(f"{service}/#generate?method=ddim&steps=1000&n=64&seed=1")
    wait_until(lambda: rows(service) == 64)
    leave(page)
    wait_until(lambda: rows(service) == 0)


def test_a_full_server_is_shown_with_its_wait_and_asked_again(service: str, opened: OpenPage) -> None:
    page = opened(service, expected="429")
    problem = json.dumps({"title": "Too Many Requests", "status": 429, "detail": "The backlog is full."})
    headers = {"Retry-After": "1", "Content-Type": "application/problem+json"}
    page.route("**/generate", lambda route: route.fulfill(status=429, headers=headers, body=problem))
    press(page, "Generate")
    notice = page.get_by_role("status").first
    expect(notice).to_contain_text("The server is full (429)")
    expect(notice).to_contain_text("Trying again in")
    page.unroute("**/generate")
    finished(page)


def test_a_lost_server_is_looked_for_and_the_image_made_anew(opened: OpenPage) -> None:
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [
        sys.executable,
        "-m",
        "service",
        "--port",
        str(port),
        "--threads",
        "1",
        "--log-level",
        "warning",
        *PATIENT,
    ]
    body = {"method": "ddim", "steps": 1000, "n": 4, "seed": 7, "class_label": 3}
    with running(command, f"{url}/readyz"):
        page = opened(f"{url}/#generate?method=ddim&steps=1000&n=4&seed=7", expected="ERR_|503")
        expect(page.locator(".tiles")).to_have_attribute("data-state", "forming")
    expect(page.get_by_role("status").first).to_contain_text("Connection lost.")
    with running(command, f"{url}/readyz"):
        finished(page)
        assert shown(page, 3) == base64.b64decode(httpx.post(f"{url}/generate", json=body).json()["images"][3]["data"])


def test_on_a_phone_the_image_is_in_view_once_it_is_asked_for(service: str, opened: OpenPage) -> None:
    page = opened(service, viewport=PHONE)
    page.get_by_role("textbox", name="Seed").scroll_into_view_if_needed()
    press(page, "Generate")
    finished(page)
    expect(page.locator(".tiles")).to_be_in_viewport(ratio=0.9)
