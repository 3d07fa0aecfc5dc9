"""The view Edit, used as a person would: a picture is marked with a brush and changed; a slider goes between two."""

import base64
import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.page.conftest import PHONE, OpenPage
from tests.page.test_generate import finished, press, shown
from tests.picture_files import png, written

VIEW = "#edit?method=ddim&class_label=3&steps=10&seed=7"


@pytest.fixture
def chosen(service: str, tmp_path: Path) -> tuple[Path, np.ndarray[Any, Any]]:
    """The file of an image of a 7, and its pixels."""
    body = {"method": "ddim", "steps": 6, "seed": 1, "class_label": 7, "solver": "dpmpp_2m"}
    answer = httpx.post(f"{service}/generate", json=body, headers={"Accept": "image/png"})
    (tmp_path / "seven.png").write_bytes(answer.raise_for_status().content)
    return tmp_path / "seven.png", np.asarray(Image.open(tmp_path / "seven.png"))


def choose(page: Page, path: Path, label: str = "Choose a picture") -> None:
    page.get_by_label(label).set_input_files(path)


def picture_of(page: Page) -> np.ndarray[Any, Any]:
    """What the page shows, grey."""
    return np.asarray(Image.open(io.BytesIO(shown(page))).convert("L"))


def paint_lower_half(page: Page) -> None:
    page.get_by_role("slider", name="brush").fill("9")
    box = page.locator(".brush").bounding_box()
    assert box is not None
    pixel = box["height"] / 32
    for row in (20, 28, 31):
        page.mouse.move(box["x"] + pixel, box["y"] + (row + 0.5) * pixel)
        page.mouse.down()
        for column in range(1, 32, 2):
            page.mouse.move(box["x"] + column * pixel, box["y"] + (row + 0.5) * pixel)
        page.mouse.up()


def test_what_is_marked_is_painted_anew_and_the_rest_stays(
    service: str, opened: OpenPage, chosen: tuple[Path, np.ndarray[Any, Any]]
) -> None:
    path, pixels = chosen
    page = opened(f"{service}/{VIEW}")
    choose(page, path)
    expect(page.get_by_text("Mark what is to be painted anew, or")).to_be_visible()
    paint_lower_half(page)
    press(page, "Paint")
    expect(page.get_by_text("The marked part as 3 by ddim, 10 steps, seed 7, in")).to_be_visible()
    got = picture_of(page)
    np.testing.assert_array_equal(got[:16], pixels[:16])
    assert (got[16:] != pixels[16:]).any()


def test_without_marks_all_of_it_changes_as_the_api_does(
    service: str, opened: OpenPage, chosen: tuple[Path, np.ndarray[Any, Any]]
) -> None:
    path, pixels = chosen
    page = opened(f"{service}/{VIEW}")
    choose(page, path)
    expect(page.get_by_text("Mark what is to be painted anew, or")).to_be_visible()
    page.get_by_role("slider", name="strength").fill("0.5")
    assert "strength=0.5" in page.url
    press(page, "Paint")
    body = {"method": "ddim", "class_label": 3, "steps": 10, "seed": 7, "image": png(pixels), "strength": 0.5}
    answer = httpx.post(f"{service}/generate", json=body, headers={"Accept": "image/png"})
    expect(page.get_by_text("The picture as 3 by ddim")).to_be_visible()
    np.testing.assert_array_equal(picture_of(page), np.asarray(Image.open(io.BytesIO(answer.content))))


def test_the_keyboard_marks_too_and_marks_can_be_cleared(service: str, opened: OpenPage) -> None:
    page = opened(f"{service}/{VIEW}", viewport=PHONE)
    press(page, "Take the seed's image")
    expect(page.get_by_text("Mark what is to be painted anew, or")).to_be_visible()
    mask = page.locator(".brush canvas").last
    count = (
        "canvas => canvas.getContext('2d').getImageData(0, 0, 32, 32).data.filter((v, i) => i % 4 === 3 && v).length"
    )
    mask.focus()
    for key in ("Space", "ArrowRight", "Shift+ArrowDown"):
        page.keyboard.press(key)
    assert mask.evaluate(count) == 9 + 5
    press(page, "Clear the marks")
    assert mask.evaluate(count) == 0


def test_nothing_is_painted_without_a_picture_and_no_file_but_a_picture_is_one(
    service: str, opened: OpenPage, tmp_path: Path
) -> None:
    page = opened(f"{service}/{VIEW}")
    press(page, "Paint")
    expect(page.get_by_text("There is no picture yet.")).to_be_visible()
    (tmp_path / "no.png").write_text("no picture")
    choose(page, tmp_path / "no.png")
    expect(page.get_by_text("This file is no picture that the browser can read.")).to_be_visible()


def test_a_slider_goes_from_one_seed_to_the_other(service: str, opened: OpenPage) -> None:
    page = opened(f"{service}/{VIEW}")
    boxes = page.get_by_role("form", name="Two images").get_by_role("textbox")
    expect(boxes).to_have_count(2)
    for box, seed in zip(boxes.all(), "12", strict=True):
        box.fill(seed)
    press(page, "Find the way")
    expect(page.get_by_text("17 images. The first and the last")).to_be_visible()
    slider = page.get_by_role("slider", name="Between")
    sources = []
    for at in (0, 8, 16):
        slider.fill(str(at))
        sources.append(page.get_by_role("img", name=f"Image {at + 1} of 17 on the way").get_attribute("src"))
    assert len(set(sources)) == 3
    for source, seed in ((sources[0], 1), (sources[2], 2)):
        body = {"method": "ddim", "class_label": 3, "steps": 10, "seed": seed}
        answer = httpx.post(f"{service}/generate", json=body).json()
        assert source == f"data:image/png;base64,{answer['images'][0]['data']}"


def test_a_slider_goes_from_one_picture_to_the_other(
    service: str, opened: OpenPage, chosen: tuple[Path, np.ndarray[Any, Any]], tmp_path: Path
) -> None:
    path, pixels = chosen
    mirrored = tmp_path / "mirrored.png"
    mirrored.write_bytes(written(Image.fromarray(pixels[:, ::-1])))
    page = opened(f"{service}/{VIEW}")
    choose(page, path, "First: a picture")
    press(page, "Find the way")
    expect(page.get_by_text("the other image has no picture yet")).to_be_visible()
    choose(page, mirrored, "Second: a picture")
    expect(page.get_by_role("img", name="Second picture")).to_be_visible()
    press(page, "Find the way")
    expect(page.get_by_text("17 images. The first and the last")).to_be_visible()
    src = page.locator(".between > img").get_attribute("src") or ""
    first = np.asarray(Image.open(io.BytesIO(base64.b64decode(src.partition(",")[2])))).astype(float)
    assert np.sqrt(np.mean((first - pixels) ** 2)) / 255 < 0.08  # 20 steps, and another class


def test_a_link_has_the_settings(service: str, opened: OpenPage) -> None:
    page = opened(f"{service}/#edit?method=vdm&class_label=5&strength=0.3&seed=9&n=2")
    assert page.get_by_role("radio", name="vdm").is_checked()
    assert page.get_by_role("slider", name="strength").input_value() == "0.3"
    press(page, "Take the seed's image")
    expect(page.get_by_text("Mark what is to be painted anew, or")).to_be_visible()
    press(page, "Paint")
    finished(page)
    expect(page.locator("section:visible .tiles img")).to_have_count(2)
    page.get_by_role("radio", name="ddgan").check()
    assert "method=ddgan" in page.url
    assert "strength=0.3" in page.url
