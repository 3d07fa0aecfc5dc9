"""What holds for every view: anybody can use it, on any screen, with any models behind it."""

from pathlib import Path

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from models.ddgan.plan import large_steps
from tests.conftest import write_bundle
from tests.deploy.conftest import in_this_process
from tests.page.conftest import PHONE, OpenPage, hold_clock, settled
from tests.service.http.test_auth import line

VIEWS = {
    "generate": "#generate?method=ddim&steps=4&seed=7&n=4",
    "race": "#race?seed=7&n=1&ddim.steps=4",
    "frontier": "#frontier?max_ms=300&seed=7",
    "edit": "#edit?seed=7",
    "load": "#load",
}
BUDGET_BYTES = 300_000


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_no_serious_violation(service: str, opened: OpenPage, view: str, scheme: str) -> None:
    page = opened(f"{service}/{VIEWS[view]}", color_scheme=scheme, bypass_csp=True)  # axe is put into the page
    settled(page)
    if view == "frontier":
        page.get_by_text("measured points", exact=False).last.click()
    found = Axe().run(page).response["violations"]
    serious = [each for each in found if each["impact"] in {"serious", "critical"}]
    assert not serious, [(each["id"], each["nodes"][0]["html"], each["nodes"][0]["failureSummary"]) for each in serious]


@pytest.mark.parametrize("view", VIEWS)
def test_nothing_is_cut_off_at_320_pixels(service: str, opened: OpenPage, view: str) -> None:
    page = opened(f"{service}/{VIEWS[view]}", viewport=PHONE)
    settled(page)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


def test_the_keyboard_alone_makes_an_image(service: str, opened: OpenPage) -> None:
    second = httpx.get(f"{service}/methods").json()[1]["method"]
    page = opened(service)
    expect(page.get_by_role("button", name="Generate")).to_be_visible()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # skips to the content
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("group", name="Method").get_by_role("radio", name=second).is_checked()
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("radio", name="4", exact=True).is_checked()
    page.keyboard.press("Tab")
    page.keyboard.type("2")
    page.keyboard.press("Enter")
    expect(page.get_by_text(f"1 image of 4 by {second}, 2 steps")).to_be_visible()


def test_the_views_are_links_and_the_browser_goes_back(service: str, opened: OpenPage) -> None:
    page = opened(f"{service}/{VIEWS['generate']}")
    settled(page)
    image = page.locator("section:visible .tiles img").first.get_attribute("src")
    page.get_by_role("link", name="Race").click()
    expect(page.get_by_role("heading", name="Race")).to_be_visible()
    assert page.title() == "Race · Trilemma"
    page.go_back()
    expect(page.get_by_role("heading", name="Generate")).to_be_visible()
    assert page.locator("section:visible .tiles img").first.get_attribute("src") == image


def test_the_first_view_is_small_and_the_second_visit_smaller(service: str, opened: OpenPage) -> None:
    page = opened(f"{service}/healthz")
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    received: list[float] = []
    session.on("Network.loadingFinished", lambda event: received.append(event["encodedDataLength"]))

    def visit() -> float:
        received.clear()
        page.goto(service, wait_until="networkidle")
        expect(page.get_by_role("button", name="Generate")).to_be_visible()
        return sum(received)

    first, second = visit(), visit()
    assert 50_000 < first < BUDGET_BYTES
    assert second < first / 3


def four_methods(folder: Path) -> Path:
    """Toys with the names of the families; nothing of them is measured."""
    schedule = {"alphas_cumprod": large_steps(4).tolist()}
    write_bundle(folder / "ddgan", name="ddgan", family="ddgan", noise_schedule=schedule, recommended_steps=4)
    for name in ("ddim", "other"):
        write_bundle(folder / name, name=name)
    write_bundle(
        folder / "vdm", name="vdm", family="vdm", noise_schedule={"gamma": [-13.0, -2.0, 0.5, 5.0]}, recommended_steps=3
    )
    return folder


def test_it_shows_whatever_is_served_and_needs_no_measurement(tmp_path: Path, opened: OpenPage) -> None:
    with in_this_process(four_methods(tmp_path)) as (url, _):
        page = opened(f"{url}/#race?seed=1")
        settled(page)
        assert page.locator(".lane h3").all_inner_texts() == ["ddgan", "ddim", "other", "vdm"]
        expect(page.get_by_label("Steps of ddgan").get_by_role("option")).to_have_text(["1 step", "2 steps", "4 steps"])
        page.get_by_role("link", name="Frontier").click()
        expect(page.get_by_text("Nothing is measured yet.")).to_be_visible()
        page.get_by_role("link", name="Generate").click()
        page.get_by_role("radio", name="ddgan").check()
        slider = page.get_by_role("slider", name="Steps")
        assert (slider.get_attribute("max"), slider.get_attribute("aria-valuetext")) == ("3", "4 steps, not measured")
        page.get_by_role("radio", name="one").check()
        page.get_by_role("button", name="Generate").click()
        settled(page)
        assert "method=ddgan&class_label=one&steps=4" in page.url


CLASSES = ["10", "1", "", "two words", "día", "a&b=c", "any", "3"]


@pytest.mark.parametrize("label", [*CLASSES, None])
def test_a_class_is_what_its_name_says_whatever_it_is(tmp_path: Path, opened: OpenPage, label: str | None) -> None:
    write_bundle(tmp_path / "toy", classes=CLASSES)
    with in_this_process(tmp_path) as (url, _):
        page = opened(f"{url}/#generate?method=toy&class_label=3&steps=2")
        group = page.get_by_role("group", name="Class").get_by_role("radio")
        group.nth(len(CLASSES) if label is None else CLASSES.index(label)).check()
        page.get_by_role("button", name="Generate").click()
        settled(page)
        with page.expect_request("**/generate") as request:
            page.get_by_role("button", name="Draw another seed and start").click()
        assert request.value.post_data_json.get("class_label") == label
        settled(page)
        if label:  # an address has the empty name for no class
            again = opened(page.url)
            settled(again)
            assert again.get_by_role("group", name="Class").get_by_role("radio").nth(CLASSES.index(label)).is_checked()


def test_more_classes_than_fit_are_a_list(tmp_path: Path, opened: OpenPage) -> None:
    names = [str(number) for number in range(40, 0, -1)]
    write_bundle(tmp_path / "toy", classes=names)
    with in_this_process(tmp_path) as (url, _):
        page = opened(f"{url}/#generate?method=toy&class_label=12&steps=2")
        chooser = page.get_by_label("Class")
        for label in ("7", "any"):
            chooser.select_option(label)
            with page.expect_request("**/generate") as request:
                page.get_by_role("button", name="Draw another seed and start").click()
            assert request.value.post_data_json.get("class_label") == (None if label == "any" else label)
            settled(page)


def test_a_server_that_asks_to_wait_for_long_is_not_asked_again(tmp_path: Path, opened: OpenPage) -> None:
    write_bundle(tmp_path / "bundles" / "toy")
    keys = tmp_path / "keys.toml"
    keys.write_text(line("alice", "work_s_per_minute = 0.001"))
    with in_this_process(tmp_path / "bundles", keys=keys) as (url, app):
        app.state.service.engine.scheduler.work_s = lambda _: 1.0
        page = opened(url, expected="401|429")
        page.get_by_label("Key", exact=True).fill("secret of alice")
        page.get_by_role("button", name="Use this key").click()
        page.get_by_role("button", name="Generate").click()
        settled(page)
        page.get_by_role("button", name="Draw another seed and start").click()
        notice = page.get_by_role("status").first
        expect(notice).to_contain_text("used up its work budget")
        expect(notice).to_contain_text("Try again in")
        expect(page.get_by_role("button", name="Generate")).to_be_visible()  # it is over


def test_a_service_with_keys_asks_for_one(tmp_path: Path, opened: OpenPage) -> None:
    write_bundle(tmp_path / "bundles" / "toy")
    keys = tmp_path / "keys.toml"
    keys.write_text(line("alice"))
    with in_this_process(tmp_path / "bundles", keys=keys) as (url, _):
        page = opened(url, expected="401")
        page.get_by_label("Key", exact=True).fill("secret of alice")
        page.get_by_role("button", name="Use this key").click()
        page.get_by_role("button", name="Generate").click()
        settled(page)
        hold_clock(page)
        page.get_by_role("button", name="Copy as curl").click()
        expect(page.get_by_role("button", name="Copied")).to_be_visible()
        copied = page.evaluate("navigator.clipboard.readText()")
        assert '-H "Authorization: Bearer $TRILEMMA_KEY"' in copied
        assert "secret" not in copied


def test_it_waits_for_a_service_that_has_no_model_yet(tmp_path: Path, opened: OpenPage) -> None:
    bundle = write_bundle(tmp_path / "bundles" / "toy")
    write_bundle(tmp_path / "bundles" / "bad", format_version=7)  # an empty folder would be taken for a lost one
    with in_this_process(bundle.parent) as (url, app):
        bundle.rename(tmp_path / "aside")
        app.state.service.models.reload()
        page = opened(url, expected="503")
        expect(page.get_by_role("status").first).to_contain_text("There is no model to show.")
        expect(page.get_by_role("status").first).to_contain_text("format version 7")
        (tmp_path / "aside").rename(bundle)
        app.state.service.models.reload()
        expect(page.get_by_role("button", name="Generate")).to_be_visible()
