"""The views Race, Frontier and Load, used as a person would."""

import base64
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from playwright.sync_api import expect
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import IN_COLOUR, SHAPE, write_bundle
from tests.deploy.conftest import in_this_process, tool
from tests.page.conftest import OpenPage


def asked(service: str, **body: Any) -> dict[str, Any]:
    """The API's own answer."""
    answer: dict[str, Any] = httpx.post(f"{service}/generate", json=body).raise_for_status().json()
    return answer


def methods(service: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = httpx.get(f"{service}/methods").json()
    return found


def decoded(source: str | None) -> bytes:
    return base64.b64decode((source or "").removeprefix("data:image/png;base64,"))


def test_every_method_races_with_one_seed_and_its_own_clock(service: str, opened: OpenPage) -> None:
    page = opened(f"{service}/#race?class_label=5&n=2")
    page.get_by_role("textbox", name="Seed").fill("21")
    page.get_by_label("Steps of ddim").select_option("4 steps")
    page.get_by_role("button", name="Start", exact=True).click()
    verdict = page.locator(".verdict")
    expect(verdict).to_contain_text("2 images each:")
    served = methods(service)
    for method in served:
        name, steps = method["method"], 4 if method["method"] == "ddim" else method["steps"]["default"]
        lane = page.get_by_role("region", name=name, exact=True)
        made = asked(service, method=name, steps=steps, seed=21, class_label=5, n=2)["images"]
        sources = lane.locator("img").evaluate_all("images => images.map((image) => image.src)")
        assert [decoded(source) for source in sources] == [base64.b64decode(image["data"]) for image in made]
        assert re.fullmatch(r"[\d.]+ m?s", lane.locator(".clock").inner_text())
        expect(verdict).to_contain_text(f"{name} {lane.locator('.clock').inner_text()}")
    assert sorted(page.locator(".medal").all_inner_texts()) == sorted(
        ["first", "second", "third", "4th"][: len(served)]
    )
    assert "seed=21" in page.url
    assert "ddim.steps=4" in page.url


def two_datasets(folder: Path) -> Path:
    """Nine measured toys, five of grey digits and four of others in colour, whose distances mean other things."""
    for number in range(9):
        name, digits = f"toy{number}", number < 5
        point = {"solver": "ddim", "steps": 2 + number, "settings": {"eta": 0.0}, "alone_ms": 10 + number}
        shape = {"shape": SHAPE, "state_shape": SHAPE} if digits else IN_COLOUR
        write_bundle(
            folder / name,
            name=name,
            **shape,
            classes=["3", "7"] if digits else ["ship", "automobile", "3"],
            dataset={"name": "digits" if digits else "things"},
            measured={"points": [{**point, "frechet_distance": 1.0 + number if digits else 100.0 + number}]},
        )
    return folder


def test_the_page_begins_with_colour_and_shows_the_methods_of_one_data_set(tmp_path: Path, opened: OpenPage) -> None:
    with in_this_process(two_datasets(tmp_path)) as (url, _):
        page = opened(f"{url}/#generate", expected="429|ERR_")
        cards = page.get_by_role("group", name="Method").locator("label")
        image = page.locator("section:visible .tiles img")
        expect(cards).to_contain_text([f"toy{number}" for number in range(5, 9)])
        assert page.get_by_role("radio", name="things").is_checked()
        expect(image).to_have_css("image-rendering", "auto")
        page.get_by_role("radio", name="ship").check()
        page.get_by_role("radio", name="digits").check()
        expect(cards).to_contain_text([f"toy{number}" for number in range(5)])
        assert re.search("method=toy0&class_label=7&", page.url)  # there is no ship
        page.get_by_role("radio", name="digits").press("ArrowLeft")  # the focus has stayed
        expect(page.get_by_role("radio", name="things")).to_be_focused()
        page.get_by_role("radio", name="any").check()
        page.get_by_role("radio", name="digits").check()
        assert re.search("method=toy0&class_label=&", page.url)
        page.get_by_role("button", name="Generate").click()
        expect(page.get_by_text("1 image of no class by toy0")).to_be_visible()
        expect(image).to_have_css("image-rendering", "pixelated")


@pytest.mark.parametrize("view", ["generate", "race", "edit"])
def test_an_address_with_a_class_alone_is_of_the_data_set_that_has_it(
    tmp_path: Path, opened: OpenPage, view: str
) -> None:
    with in_this_process(two_datasets(tmp_path)) as (url, _):
        for label, dataset in (("7", "digits"), ("automobile", "things"), ("3", "things")):
            page = opened(f"{url}/#{view}?class_label={label}", expected="429|ERR_")
            expect(page.locator("section:visible").get_by_role("radio", name=dataset)).to_be_checked()
            expect(page.locator("section:visible").get_by_role("radio", name=label, exact=True)).to_be_checked()


def test_race_and_frontier_compare_within_one_data_set(tmp_path: Path, opened: OpenPage) -> None:
    with in_this_process(two_datasets(tmp_path)) as (url, _):
        page = opened(f"{url}/#race?seed=1&n=1", expected="429|ERR_")  # it goes on asking when the server has ended
        lanes = page.locator("section:visible .lane:visible h3")
        expect(lanes).to_have_text([f"toy{number}" for number in range(5, 9)])
        page.get_by_role("radio", name="digits").check()
        expect(lanes).to_have_text([f"toy{number}" for number in range(5)])
        assert "dataset=digits" in page.url
        page.goto(f"{url}/#frontier?dataset=things&class_label=ship&seed=7&max_ms=100")
        expect(page.locator("p.chosen:visible")).to_contain_text("Chosen: toy5, 7 steps")  # nearest of its data set
        expect(page.get_by_role("figure").first.get_by_role("link")).to_have_count(4)
        assert page.get_by_role("radio", name="things").is_checked()
        page.get_by_role("radio", name="digits").check()
        expect(page.locator("p.chosen:visible")).to_contain_text("Chosen: toy0, 2 steps")
        expect(page.locator("figure:visible").first.get_by_role("link")).to_have_count(5)


def test_no_two_of_many_methods_look_alike(tmp_path: Path, opened: OpenPage) -> None:
    with in_this_process(two_datasets(tmp_path)) as (url, _):
        page = opened(url, expected="429|ERR_")
        expect(page.get_by_role("button", name="Generate")).to_be_visible()
        cards = page.get_by_role("group", name="Method").locator("label")
        get_colors = "labels => labels.map((label) => label.style.getPropertyValue('--color'))"
        colors = cards.evaluate_all(get_colors)
        page.get_by_role("radio", name="digits").check()
        expect(cards).to_have_count(5)
        colors += cards.evaluate_all(get_colors)
        assert (len(colors), len(set(colors))) == (9, 8)  # the ninth has another shape
        page.goto(f"{url}/#frontier?dataset=digits&seed=7")
        shapes = page.locator(".legend:visible li path").evaluate_all(
            "all => all.map((path) => path.getAttribute('d'))"
        )
        assert len(set(shapes)) == 4


def test_every_measured_point_is_plotted_and_generates_by_a_click(service: str, opened: OpenPage) -> None:
    page = opened(f"{service}/#frontier?class_label=3&seed=7&max_ms=300", expected="429")  # if the machine is slow
    measured = [(method["method"], point) for method in methods(service) for point in method["measured"]["points"]]
    for figure in page.get_by_role("figure").all():
        assert figure.get_by_role("link").count() == len(measured)
    point = page.get_by_role("figure").first.get_by_role("link", name="Generate by ddim, ddim eta=1, 10 steps")
    point.locator(".marker").click()
    expect(page.get_by_text("1 image of 3 by ddim, 10 steps, seed 7 in")).to_be_visible()
    made = asked(service, method="ddim", steps=10, eta=1, seed=7, class_label=3)["images"][0]["data"]
    assert decoded(page.locator("section:visible .tiles img").get_attribute("src")) == base64.b64decode(made)


def test_a_dragged_budget_is_what_the_service_chooses_within(service: str, opened: OpenPage) -> None:
    page = opened(f"{service}/#frontier?class_label=3&seed=7&max_ms=100", expected="422|429")  # if the machine is slow
    budget = page.get_by_role("slider", name="Time for one image")
    chosen = page.locator("p.chosen")

    def agreed() -> str:
        """The budget in the address, once what was chosen is within it, and the picture is of that."""
        (max_ms,) = re.findall(r"max_ms=([\d.]+)", page.url)
        expect(chosen).to_contain_text(f"with max_ms = {float(max_ms):g} ")
        said = re.match(
            r"Chosen: (\w+), (\d+) steps, solver (\w+)(, eta = ([\d.]+))?: .*, ([\d.]+) ms;", chosen.inner_text()
        )
        assert said is not None
        method, steps, solver, _, eta, ms = said.groups()
        assert float(ms) <= float(max_ms)
        settings = {} if eta is None else {"eta": float(eta)}
        answer = asked(service, method=method, steps=int(steps), solver=solver, class_label=3, seed=7, **settings)
        image = page.locator("section:visible .tiles img")
        expect(image).to_have_attribute("src", f"data:image/png;base64,{answer['images'][0]['data']}")
        point = page.get_by_role("figure").first.locator(".point.chosen")
        expect(point).to_have_attribute("aria-label", re.compile(f"by {method}, .* {steps} steps"))
        return max_ms

    first = agreed()
    budget.press("End")
    last = agreed()
    box = page.get_by_role("figure").first.locator("svg").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 20)  # above the points, which are links
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + 20, steps=5)
    page.mouse.up()
    assert len({first, last, agreed()}) == 3
    budget.press("Home")
    expect(page.get_by_role("status").filter(has_text="422")).to_contain_text("no measured point is within it")


def test_a_refused_budget_gives_way_to_the_next_at_once(service: str, opened: OpenPage) -> None:
    page = opened(f"{service}/#frontier?class_label=3&seed=7&max_ms=300", expected="429")
    budget = page.get_by_role("slider", name="Time for one image")
    chosen = page.locator("p.chosen")
    expect(chosen).to_contain_text("with max_ms = 300 ")
    problem = {"type": "urn:trilemma:overloaded", "title": "Too Many Requests", "status": 429, "detail": "full"}
    refused = {"status": 429, "headers": {"Retry-After": "60"}, "content_type": "application/problem+json"}
    page.route("**/generate", lambda route: route.fulfill(**refused, body=json.dumps(problem)))
    budget.press("End")
    expect(page.get_by_role("status").filter(has_text="429")).to_contain_text("Trying again in")
    page.unroute("**/generate")
    budget.press("ArrowLeft")
    (max_ms,) = re.findall(r"max_ms=([\d.]+)", page.url)
    expect(chosen).to_contain_text(f"with max_ms = {float(max_ms):g} ")


def batches(service: str) -> tuple[float, float]:
    """Rows and steps of batches so far."""
    samples = [s for f in text_string_to_metric_families(httpx.get(f"{service}/metrics").text) for s in f.samples]
    rows, steps = (
        sum(s.value for s in samples if s.name == f"trilemma_batch_size_{kind}") for kind in ("sum", "count")
    )
    return rows, steps


def test_the_load_is_what_the_metrics_say(service: str, opened: OpenPage) -> None:
    page = opened(f"{service}/#load")
    chart = page.get_by_role("figure").filter(has_text="Steps a second")
    expect(chart.get_by_role("img")).to_have_attribute("aria-label", re.compile("ddim 0, latent 0"))
    rows, steps = batches(service)
    asked(service, method="ddim", steps=20, n=8, seed=3)
    expect(chart.get_by_role("img")).to_have_attribute("aria-label", re.compile(r"ddim [1-9][\d.,]*, latent 0"))
    mean = (batches(service)[0] - rows) / (batches(service)[1] - steps)
    expect(page.get_by_role("img", name="Batch")).to_have_attribute("aria-label", f"Batch: batch {mean:.3g}")
    expect(page.get_by_role("img", name="Latency: p99")).to_have_count(1)


IN_PAGE = "async ([name, ...given]) => { const module = await import('/page/prometheus.js'); return %s; }"


def test_the_page_reads_the_metrics_as_the_prometheus_client_does(service: str, opened: OpenPage) -> None:
    page = opened(service)
    text = httpx.get(f"{service}/metrics").text + 'odd{a="x\\"y\\\\n,{}",b=""} -1.5e-3\nodd{le="+Inf"} +Inf\n'
    samples = (
        "[...module.parse(name)].flatMap(([n, all]) => all.map((s) => [n, Object.entries(s.labels), String(s.value)]))"
    )
    script = IN_PAGE % samples
    read = {
        (name, tuple(sorted(map(tuple, labels)))): float(value.replace("Infinity", "inf"))
        for name, labels, value in page.evaluate(script, [text])
    }
    families = text_string_to_metric_families(text)
    expected = {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}
    assert read == expected


BUCKETS = {"0.1": 4, "0.5": 10, "1": 17, "2.5": 18, "+Inf": 20}


@pytest.mark.parametrize("q", [0.05, 0.5, 0.9, 0.95, 1.0])
def test_quantiles_are_those_of_prometheus(service: str, opened: OpenPage, tmp_path: Path, q: float) -> None:
    page = opened(service)
    text = "".join(f'h_bucket{{le="{le}"}} {seen}\n' for le, seen in BUCKETS.items())
    script = IN_PAGE % "module.quantile(given[0], module.parse(''), module.parse(name), 'h')"
    value = page.evaluate(script, [text, q])
    series = [{"series": f'h_bucket{{le="{le}"}}', "values": str(seen)} for le, seen in BUCKETS.items()]
    expected = {
        "expr": f"histogram_quantile({q}, h_bucket)",
        "eval_time": "0s",
        "exp_samples": [{"value": value, "labels": "{}"}],
    }
    (tmp_path / "test.yml").write_text(
        yaml.safe_dump({"rule_files": [], "tests": [{"input_series": series, "promql_expr_test": [expected]}]})
    )
    subprocess.run([tool("promtool"), "test", "rules", str(tmp_path / "test.yml")], check=True)
