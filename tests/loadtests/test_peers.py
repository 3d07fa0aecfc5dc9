"""The parts of the comparison that need no other server: its pipeline gives our images, and its page the figures."""

import json
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from loadtests.peers import document, summary
from loadtests.peers.pipeline import Pipeline
from service.app import create_app
from service.requests.request import GenerateRequest
from service.settings import Settings
from tests.conftest import SHIPPED
from tests.service.conftest import wait_until_loaded


def test_the_others_pipeline_gives_the_bytes_of_the_service() -> None:
    requests = [
        {"method": method, "steps": steps, "seed": seed, "class_label": 3}
        for seed, (method, steps) in enumerate([("ddim", 3), ("latent", 5), ("ddim", 7), ("latent", 2)])
    ]
    pngs = Pipeline(threads=1)([GenerateRequest.model_validate(request) for request in requests])
    with TestClient(create_app(Settings(bundles=SHIPPED.parent))) as client:
        wait_until_loaded(client)
        for body, png in zip(requests, pngs, strict=True):
            assert client.post("/generate", json=body, headers={"Accept": "image/png"}).content == png


def test_a_row_counts_good_answers_within_the_time_refusals_and_what_was_lost() -> None:
    measured = {"alone_s": {"a 4": 0.01, "b 50": 0.1, "c 20": 0.04}}
    calls = {
        "a 4": [[6.0, 200, 0.05], [7.0, 200, 0.2], [2.0, 429, 0.01], [3.0, 0, 20.0]],  # good, late, refused, lost
        "b 50": [[4.7, 200, 0.5], [9.9, 200, 0.4], [5.0, 503, 0.03], [6.0, 500, 0.1]],  # good, after the end, ...
        "c 20": [[4.0, 200, 0.1], [9.0, 200, 0.1]],  # good, but before SETTLED_S; good
    }
    kind = {"arrivals": "poisson", "load": 0.8, "server": "Trilemma"}
    row = summary.row(
        [{**kind, "seconds": 10.0, "capacity": 2.0, "memory_mb": [100.0, 101.0], "calls": calls}], measured
    )
    assert row.good == 5 / 6
    assert row.goodput == pytest.approx((0.01 + 0.1 + 0.04) / (10 - summary.SETTLED_S) / 2.0)
    assert (row.refused, row.lost) == (2 / 10, 2 / 10)
    assert row.latency_ms["a 4"][0] == pytest.approx(125.0)
    assert row.quick_slowdown == pytest.approx(20, rel=0.02)


def test_the_page_shows_the_raw_figures_and_keeps_its_other_text(tmp_path: Path) -> None:
    raw = json.loads(document.RAW.read_text())
    page = tmp_path / "serving.md"
    page.write_text(document.PAGE.read_text())
    document.write(raw, page, tmp_path / "chart.png")
    assert page.read_text() == document.PAGE.read_text()
    for point in raw["points"]:
        point["goodput"] = 0.123
    document.write(raw, page, tmp_path / "chart.png")
    assert page.read_text().count("12%") > page.read_text().count("43%") == 0
    assert page.read_text().startswith("# Serving benchmark")
    assert page.read_text().endswith(document.PAGE.read_text()[-200:])
