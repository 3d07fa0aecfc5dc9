"""The HTTP surface over a toy model, through the whole application: what is answered."""

import base64
import hashlib
import io
import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from openapi_spec_validator import validate
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from models.ddim.plan import SOLVERS
from tests.conftest import IN_COLOUR, REPOSITORY, ToyRuntime, write_bundle
from tests.service.conftest import generate, serve


def test_a_json_answer_has_the_images_and_all_that_made_them(client: TestClient) -> None:
    answer = generate(client, steps=3, n=2, class_label="one", format="png").json()
    assert (answer["method"], answer["steps"], answer["solver"], answer["seed"]) == ("toy", 3, "ddim", 1)
    assert (answer["settings"], answer["class_label"]) == ({"eta": 0.0}, "one")
    assert [image["index"] for image in answer["images"]] == [0, 1]
    for image in answer["images"]:
        content = base64.b64decode(image["data"])
        assert hashlib.sha256(content).hexdigest() == image["sha256"]
        assert Image.open(io.BytesIO(content)).size == (4, 4)
    timing = answer["timing"]
    assert 0 <= timing["queue_ms"] <= timing["total_ms"]
    assert timing["queue_ms"] + timing["compute_ms"] <= timing["total_ms"]
    assert answer["model"]["digest"] == client.get("/methods").json()[0]["model"]["digest"]


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("image/png", "image/png"),
        ("image/jpeg", "image/jpeg"),
        ("image/webp", "image/webp"),
        ("application/x-npy", "application/x-npy"),
        ("", "application/json"),
        ("image/*", "image/png"),
        ("IMAGE/WebP", "image/webp"),
        ("image/png;q=0, image/*", "image/jpeg"),
        ("text/html, image/png;q=0.5, application/json;q=0.1", "image/png"),
        ("image/png;q=0.2, application/x-npy;q=0.9", "application/x-npy"),
    ],
)
def test_the_answer_is_what_accept_asks_for(client: TestClient, accept: str, content_type: str) -> None:
    answer = generate(client, accept)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == content_type
    assert answer.headers["vary"] == "Accept"


def test_every_form_shows_the_same_images(client: TestClient) -> None:
    array = np.load(io.BytesIO(generate(client, "application/x-npy", n=3).content), allow_pickle=False)
    assert array.shape == (3, 1, 4, 4)
    expected = ((array[:, 0].clip(-1, 1) + 1) * 127.5).round()
    singles = [base64.b64decode(image["data"]) for image in generate(client, n=3).json()["images"]]
    picture = np.asarray(Image.open(io.BytesIO(generate(client, "image/png", n=3).content)))
    for i, (single, place) in enumerate(zip(singles, ((0, 0), (0, 4), (4, 0)), strict=True)):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(single))), expected[i])
        np.testing.assert_array_equal(picture[place[0] :, place[1] :][:4, :4], expected[i])


def test_the_same_request_gives_the_same_bytes_and_another_seed_others(client: TestClient) -> None:
    first, again, other = (generate(client, "image/png", seed=seed).content for seed in (2**64 - 1, 2**64 - 1, 0))
    assert first == again
    assert first != other


def test_a_seed_is_drawn_and_returned_and_gives_the_same_again(client: TestClient) -> None:
    drawn = client.post("/generate", json={"method": "toy"})
    seed = drawn.json()["seed"]
    assert drawn.headers["trilemma-seed"] == str(seed)
    again = generate(client, seed=seed).json()
    assert again["images"] == drawn.json()["images"]


def test_image_i_does_not_depend_on_how_many_are_asked_for(client: TestClient) -> None:
    few, many = generate(client, n=2).json(), generate(client, n=9).json()
    assert few["images"] == many["images"][:2]


def test_every_answer_carries_its_timing(client: TestClient) -> None:
    header = generate(client, "image/png").headers["server-timing"]
    assert [part.split(";")[0].strip() for part in header.split(",")] == ["queue", "compute", "encode", "total"]


@pytest.mark.parametrize("accept", ["application/json", "image/png"])
def test_a_known_etag_is_answered_without_computing(client: TestClient, runtime: ToyRuntime, accept: str) -> None:
    tag = generate(client, accept).headers["etag"]
    steps = len(runtime.batches)
    headers = {"Accept": accept, "If-None-Match": f'"other", {tag}'}
    answer = client.post("/generate", json={"method": "toy", "seed": 1}, headers=headers)
    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
    assert len(runtime.batches) == steps


def test_etags_differ_with_all_that_changes_the_answer(client: TestClient) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"seed": 2},
        {"steps": 6},
        {"n": 2},
        {"class_label": 0},
        {"eta": 0.5},
        {"solver": "dpmpp_2m"},
        {"format": "webp"},
        {"accept": "image/png"},
        {"accept": "image/webp"},
    ]
    assert len({generate(client, **change).headers["etag"] for change in changes}) == len(changes)
    assert generate(client, steps=5, n=1, eta=0.0).headers["etag"] == generate(client).headers["etag"]  # the defaults


def test_a_request_id_is_kept_where_it_is_one_and_made_where_not(client: TestClient) -> None:
    kept = client.post("/generate", json={"method": "toy"}, headers={"X-Request-ID": "abc-1"})
    assert kept.headers["x-request-id"] == kept.json()["id"] == "abc-1"
    made = client.post("/generate", json={"method": "toy"}, headers={"X-Request-ID": "a b\tc"})
    assert made.headers["x-request-id"] == made.json()["id"] != "a b\tc"


def test_methods_lists_what_a_request_may_say(client: TestClient) -> None:
    (method,) = client.get("/methods").json()
    assert method["method"] == "toy"
    assert method["image_shape"] == [1, 4, 4]
    assert method["classes"] == ["zero", "one", "2"]
    assert method["steps"] == {"min": 1, "max": 1000, "default": 5}
    assert [solver["name"] for solver in method["solvers"]] == list(SOLVERS)
    assert method["solvers"][0]["settings"] == {"eta": {"min": 0, "max": 1, "default": 0}}


def test_metrics_add_up(client: TestClient) -> None:
    generate(client, steps=3, n=2)
    generate(client, steps=2)
    generate(client, steps=0)
    families = {family.name: family for family in text_string_to_metric_families(client.get("/metrics").text)}
    samples = {(s.name, *sorted(s.labels.items())): s.value for f in families.values() for s in f.samples}
    toy = ("method", "toy")
    assert samples["trilemma_images_total", toy] == 3
    assert samples["trilemma_steps_total", toy] == 8
    assert samples["trilemma_request_seconds_count", toy, ("status", "200")] == 2
    assert samples["trilemma_queue_wait_seconds_count", toy] == 2
    assert samples["trilemma_rejections_total", ("reason", "invalid-request")] == 1
    for name, family in families.items():
        if name.startswith("trilemma_"):
            assert family.documentation
            assert family.type != "counter" or all(s.name.endswith(("_total", "_created")) for s in family.samples)


def test_the_openapi_document_is_valid_and_has_the_answers(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    validate(document)
    answers = document["paths"]["/generate"]["post"]["responses"]
    assert set(answers["200"]["content"]) == {
        "application/json",
        "image/png",
        "image/jpeg",
        "image/webp",
        "application/x-npy",
        "text/event-stream",
    }
    assert "application/problem+json" in answers["4XX"]["content"]
    seed = document["components"]["schemas"]["GenerateRequest"]["properties"]["seed"]["anyOf"][0]
    assert json.dumps(seed["maximum"]) == str(2**64 - 1)  # to the last digit
    assert (
        document["info"]["version"] == tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    )


def test_auto_chooses_within_the_data_set_that_the_class_or_the_request_names(tmp_path: Path) -> None:
    point = {"steps": 3, "solver": "ddim", "settings": {"eta": 1.0}, "alone_ms": 9.0}
    digits = {"classes": ["3", "7"], "dataset": {"name": "digits"}}
    things = {"classes": ["ship", "3"], "dataset": {"name": "things"}, **IN_COLOUR}
    for name, distance, changes in (("grey", 9.0, digits), ("colour", 2.5, things)):
        measured = {"points": [{**point, "frechet_distance": distance}]}
        write_bundle(tmp_path / name, name=name, measured=measured, **changes)
    auto = {"method": "auto", "max_ms": 60_000}
    with serve(tmp_path, ToyRuntime()) as client:
        client.post("/admin/reload")  # until both are served, however slow the machine is
        for label, method in (("7", "grey"), ("ship", "colour")):
            assert generate(client, **auto, class_label=label).json()["method"] == method
        for name, method in (("digits", "grey"), ("things", "colour")):
            for label in (None, "3", 0):
                assert generate(client, **auto, class_label=label, dataset=name).json()["method"] == method
        for label in (None, "3", 0):
            refused = generate(client, **auto, class_label=label)
            (error,) = refused.json()["errors"]
            assert (refused.status_code, error["field"], error["allowed"]) == (422, "dataset", ["digits", "things"])
        (error,) = generate(client, **auto, class_label="ship", dataset="digits").json()["errors"]
        assert (error["field"], error["allowed"]) == ("dataset", ["things"])
        openai = client.post("/v1/images/generations", json={"model": "auto", "prompt": "ship"})
        assert (openai.status_code, openai.json()["error"]["code"]) == (404, "model_not_found")


def test_auto_answers_as_the_method_it_chose_and_says_why(tmp_path: Path) -> None:
    point = {"steps": 3, "solver": "ddim", "settings": {"eta": 1.0}, "alone_ms": 9.0, "frechet_distance": 2.5}
    write_bundle(tmp_path / "toy", measured={"points": [point]})
    with serve(tmp_path, ToyRuntime()) as client:
        chosen = generate(client, method="auto", max_ms=60_000, n=2)
        asked = generate(client, steps=3, solver="ddim", eta=1.0, n=2)
        picture = generate(client, "image/png", method="auto", max_distance=3)
    answer = chosen.json()
    assert (answer["method"], answer["steps"], answer["settings"]) == ("toy", 3, {"eta": 1.0})
    assert [image["sha256"] for image in answer["images"]] == [image["sha256"] for image in asked.json()["images"]]
    assert chosen.headers["etag"] == asked.headers["etag"]
    assert answer["chosen"] == (
        "toy, 3 steps, solver ddim, eta = 1: distance 2.5, 9 ms; the best of 1 measured points with max_ms = 60000 "
        "that can be promised"
    )
    assert asked.json()["chosen"] is None
    assert picture.headers["trilemma-chosen"].startswith("toy, 3 steps")
