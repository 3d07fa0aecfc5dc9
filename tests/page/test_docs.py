"""The page at /docs in a real browser: the whole API, from this host alone, with forms that work."""

import httpx
from playwright.sync_api import expect

from service.http.static import FOLDER
from tests.page.conftest import OpenPage


def test_every_operation_is_shown(service: str, opened: OpenPage) -> None:
    paths = httpx.get(f"{service}/openapi.json").json()["paths"]
    operations = {(verb.upper(), path) for path, verbs in paths.items() for verb in verbs}
    page = opened(f"{service}/docs")
    expect(page.locator(".opblock")).to_have_count(len(operations))
    shown = page.locator(".opblock").evaluate_all(
        "blocks => blocks.map(b => [b.querySelector('.opblock-summary-method').innerText,"
        " b.querySelector('.opblock-summary-path').dataset.path])"
    )
    assert {tuple(each) for each in shown} == operations


def test_an_image_is_made_by_its_form_and_shown(service: str, opened: OpenPage) -> None:
    page = opened(f"{service}/docs")
    block = page.locator(".opblock", has_text="/generate").first
    block.locator(".opblock-summary").click()
    block.get_by_role("button", name="Try it out").click()
    block.locator("textarea").fill('{"method": "ddim", "steps": 2, "seed": 7}')
    block.get_by_label("Media Type").first.select_option("image/png")
    block.get_by_role("button", name="Execute").click()
    picture = block.locator(".live-responses-table img")
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.decode().then(() => [image.naturalWidth, image.naturalHeight])") == [32, 32]


def test_the_files_of_others_are_served_with_their_licence(service: str) -> None:
    folder = f"{service}/page/vendor/swagger-ui-dist"
    about = httpx.get(f"{folder}/package.json").json()
    assert about["version"] in (FOLDER / "vendor" / "README.md").read_text()
    assert about["license"] == "Apache-2.0"
    assert "Apache License" in httpx.get(f"{folder}/LICENSE").text
    assert httpx.get(f"{service}/redoc").status_code == 404
