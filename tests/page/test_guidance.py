"""Guidance on the page: offered where a model takes it and there is a class, and kept in the link."""

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.conftest import write_bundle
from tests.deploy.conftest import in_this_process
from tests.page.conftest import PHONE, OpenPage
from tests.page.test_generate import finished, picture, press, shown
from tests.protocols.test_fields import ManyClasses

SHAPE = (3, 4, 6)  # colour, and wider than high
BODY = {"method": "guided", "class_label": "one", "steps": 3, "seed": 7}
LINK = "#generate?method=guided&class_label=one&steps=3&solver=ddim&eta=0&seed=7"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("bundles")
    write_bundle(folder / "guided", name="guided", guidance=True, shape=SHAPE, state_shape=SHAPE)
    write_bundle(folder / "plain", name="plain")
    with in_this_process(folder, ManyClasses()) as (url, _):
        yield url


def test_a_chosen_weight_is_sent_and_kept_in_the_link(url: str, opened: OpenPage) -> None:
    page = opened(f"{url}/{LINK}")
    finished(page)
    assert shown(page) == picture(url, **BODY)
    control = page.get_by_role("slider", name="guidance")
    assert (control.get_attribute("min"), control.get_attribute("max"), control.input_value()) == ("0", "20", "1")
    control.fill("2.5")
    assert "guidance=2.5" in page.url
    press(page, "Generate")
    expect(page.get_by_text("1 image of one by guided, 3 steps, guidance 2.5, seed 7 in")).to_be_visible()
    guided = picture(url, **BODY, guidance=2.5)
    assert shown(page) == guided != picture(url, **BODY)
    assert shown(opened(page.url)) == guided
    with Image.open(io.BytesIO(guided)) as image:
        assert (image.mode, image.size) == ("RGB", (6, 4))
    box = page.locator("section:visible .tiles img").first.bounding_box()
    assert box is not None
    assert box["width"] / box["height"] == pytest.approx(1.5, rel=0.02)


def test_it_is_offered_only_where_a_model_takes_it_and_there_is_a_class(url: str, opened: OpenPage) -> None:
    page = opened(f"{url}/#generate?method=guided&class_label=one&guidance=4")
    control = page.get_by_role("slider", name="guidance")
    expect(control).to_have_value("4")
    page.get_by_role("radio", name="2", exact=True).check()
    expect(control).to_have_value("4")
    page.get_by_role("radio", name="any").check()
    expect(control).to_have_count(0)
    assert page.get_by_role("radio", name="any").evaluate("radio => radio === document.activeElement")
    assert "guidance" not in page.url
    page.get_by_role("radio", name="one").check()
    expect(control).to_have_value("1")
    page.get_by_role("radio", name="plain").check()
    expect(control).to_have_count(0)
    assert "guidance" not in page.url
    press(page, "Generate")
    finished(page)


@pytest.mark.parametrize("asked", ["method=plain&class_label=one&guidance=2", "method=guided&class_label=&guidance=2"])
def test_a_link_with_guidance_that_is_not_to_be_had_says_so(url: str, opened: OpenPage, asked: str) -> None:
    page = opened(f"{url}/#generate?{asked}&seed=1")
    expect(page.get_by_text("This link asks for guidance=2, which is not to be had here.")).to_be_visible()


def test_the_snippet_writes_the_guided_file(url: str, opened: OpenPage, tmp_path: Path) -> None:
    page = opened(f"{url}/{LINK}&guidance=2.5", viewport=PHONE)
    finished(page)
    press(page, "Copy as Python")
    code = page.evaluate("navigator.clipboard.readText()")
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    (path,) = tmp_path.iterdir()
    assert path.read_bytes() == picture(url, **BODY, guidance=2.5)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
