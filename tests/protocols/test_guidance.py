"""Guidance means the same in every protocol, is a part of an image's identity, and is refused where it cannot be."""

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bundle.loading import load
from models.schedules import cosine_schedule
from service.engine.denoise import denoise
from service.requests.request import MAX_GUIDANCE
from tests.conftest import write_bundle
from tests.deploy.conftest import in_this_process, wait_until
from tests.protocols.conftest import own
from tests.protocols.test_command import trilemma
from tests.protocols.test_fields import (
    ManyClasses,
    of_client,
    of_command,
    of_generate,
    of_openai,
    of_triton,
)
from tests.service.conftest import Held
from tests.service.engine.conftest import job
from trilemma import Client, Refused

SPEAKERS = (of_generate, of_openai, of_triton, of_client)
POINT = {"steps": 3, "solver": "ddim", "settings": {"eta": 1.0}, "alone_ms": 9.0, "frechet_distance": 2.5}
FASTER = {"steps": 2, "solver": "ddim", "settings": {"eta": 0.0}, "alone_ms": 1.0, "frechet_distance": 1.0}
RANGE = {"min": 0, "max": MAX_GUIDANCE, "default": 1}
CLASSES = {"min": 0, "max": 2, "names": ["zero", "one", "2"]}


class HeldClasses(ManyClasses, Held):
    """Whose first step waits until it is let go."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two models that take guidance, and one that does not."""
    folder = tmp_path_factory.mktemp("bundles")
    write_bundle(folder / "guided", name="guided", guidance=True, measured={"points": [POINT]})
    write_bundle(folder / "plain", name="plain", measured={"points": [FASTER]})
    schedule = {"alphas_cumprod": cosine_schedule(500).tolist()}
    write_bundle(folder / "other", name="other", guidance=True, noise_schedule=schedule)
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with in_this_process(folder, ManyClasses()) as (url, _):
        yield url


def array(url: str, **fields: Any) -> NDArray[np.float32]:
    return np.load(io.BytesIO(own(url, **{"method": "guided", **fields})), allow_pickle=False)


def alone(folder: Path, **fields: Any) -> NDArray[np.float32]:
    """The images of a request computed without a service, one at a time."""
    return denoise([job(load(folder / "guided"), **fields)], ManyClasses(), max_batch=1)


@pytest.mark.parametrize("method", ["guided", "plain"])
def test_a_weight_of_one_is_the_request_without_it_everywhere(url: str, tmp_path: Path, method: str) -> None:
    request = {"steps": 4, "seed": 7, "class_label": "one"}
    files = of_generate(url, method, **request)
    for speak in SPEAKERS:
        assert speak(url, method, **request, guidance=1.0) == files, speak.__name__
    assert of_command(url, tmp_path, method, **request, guidance=1.0) == {"it.png": files[0]}
    tags = {
        httpx.post(f"{url}/generate", json={"method": method, **request, **more}).headers["etag"]
        for more in ({}, {"guidance": 1}, {"guidance": 1.0})
    }
    assert len(tags) == 1


@pytest.mark.parametrize("weight", [0.0, 0.37, 2.5, MAX_GUIDANCE])
def test_a_weight_is_the_same_everywhere(url: str, folder: Path, tmp_path: Path, weight: float) -> None:
    request: dict[str, Any] = {"steps": 4, "seed": 7, "class_label": "one", "n": 2}
    guided = {**request, "guidance": weight}
    files = of_generate(url, "guided", **guided)
    assert files != of_generate(url, "guided", **request)
    for speak in SPEAKERS:
        assert speak(url, "guided", **guided) == files, speak.__name__
    assert list(of_command(url, tmp_path, "guided", **guided).values()) == files
    assert array(url, **guided).tobytes() == alone(folder, **guided).tobytes()


def test_an_answer_and_a_stream_have_the_weight(url: str) -> None:
    request = {"steps": 3, "seed": 7, "class_label": 1}
    with Client(url) as client:
        for weight in (1.0, 2.5):
            *_, streamed = client.stream("guided", guidance=np.float32(weight), **request)
            assert streamed.answer["guidance"] == weight  # type: ignore[union-attr]
            assert client.generate("guided", guidance=weight, **request).answer["guidance"] == weight


def test_each_weight_has_a_tag_and_a_place_in_the_cache_of_its_own(url: str) -> None:
    def ask(weight: float, tag: str = "") -> httpx.Response:
        body = {"method": "guided", "steps": 3, "seed": 99, "class_label": 1, "guidance": weight}
        return httpx.post(f"{url}/generate", json=body, headers={"Accept": "image/png", "If-None-Match": tag})

    answers = [ask(weight) for weight in (1.0, 2.0, 3.0)]
    assert [answer.headers["trilemma-cache"] for answer in answers] == ["miss"] * 3
    assert len({answer.headers["etag"] for answer in answers}) == 3
    for weight, answer in zip((1.0, 2.0, 3.0), answers, strict=True):
        assert ask(weight).content == answer.content
        assert ask(weight, answer.headers["etag"]).status_code == 304
        assert ask(weight + 0.5, answer.headers["etag"]).status_code == 200


@settings(max_examples=40)
@given(
    weight=st.floats(0, MAX_GUIDANCE),
    label=st.integers(0, 2),
    seed=st.integers(0, 2**64 - 1),
    index=st.integers(0, 2**31 - 2),
)
def test_any_weight_gives_the_same_bytes_again_and_a_part_of_a_request_its_part(
    folder: Path, weight: float, label: int, seed: int, index: int
) -> None:
    request = {"steps": 2, "seed": seed, "class_label": label, "guidance": weight, "settings": {"eta": 1.0}}
    both = alone(folder, **request, index=index, n=2)
    assert alone(folder, **request, index=index + 1).tobytes() == both[1:].tobytes()
    assert np.isfinite(both).all()


def test_requests_that_share_batches_get_the_bytes_that_each_gets_alone(folder: Path) -> None:
    requests = [
        {"seed": 1, "steps": 3, "class_label": 0, "n": 2},
        {"seed": 2, "steps": 5, "class_label": 1, "n": 2, "guidance": 2.5},
        {"seed": 3, "steps": 4},
        {"seed": 4, "steps": 4, "class_label": 2, "guidance": 0.0, "eta": 1.0},
    ]
    runtime = HeldClasses()
    with in_this_process(folder, runtime, workers=1, max_batch=8) as (url, app):
        engine = app.state.service.engine
        engine.scheduler.costs.efficient_batch_size = lambda model, most, share=1.0: most  # whatever pays here
        with ThreadPoolExecutor(len(requests)) as pool:
            answers = [pool.submit(array, url, **request) for request in requests]
            wait_until(lambda: len(engine.jobs) == len(requests))
            runtime.go.set()
        for request, answer in zip(requests, answers, strict=True):
            assert answer.result().tobytes() == alone(folder, **request).tobytes()
    assert max(runtime.batches) > 4  # rows of the largest request
    steps = (3 * 2, 5 * 2 * 2, 4, 4 * 2)  # rows of each, over its steps
    assert sum(runtime.batches) == sum(steps)


# --- refusals ---------------------------------------------------------------------------------------------------------


def refusals(url: str, method: str, weight: float, label: str | None = "one") -> list[tuple[int, str, str]]:
    """The status, the field and the text of each protocol's refusal."""
    fields: dict[str, Any] = {"guidance": weight} | ({} if label is None else {"class_label": label})
    generate = httpx.post(f"{url}/generate", json={"method": method, **fields})
    assert generate.headers["content-type"] == "application/problem+json"
    (error,) = generate.json()["errors"]
    results = [(generate.status_code, error["field"], json.dumps(error, separators=(",", ":")))]
    if label is not None:  # it is a prompt, which OpenAI's requests have
        body = {"model": method, "prompt": label, "guidance": weight}
        openai = httpx.post(f"{url}/v1/images/generations", json=body)
        results.append((openai.status_code, openai.json()["error"]["param"], openai.json()["error"]["message"]))
    tensors = [
        {"name": name, "shape": [1], "datatype": "BYTES" if isinstance(value, str) else "FP32", "data": [value]}
        for name, value in fields.items()
    ]
    infer = httpx.post(f"{url}/v2/models/{method}/infer", json={"inputs": tensors})
    text = infer.json()["error"]
    return [*results, (infer.status_code, text.split(":")[0], text)]


def test_a_model_without_guidance_says_which_take_it(url: str) -> None:
    results = refusals(url, "plain", 2.0)
    assert [(status, field) for status, field, _ in results] == [(status, "guidance") for status in (422, 400, 400)]
    for _, _, text in results:
        assert "plain takes no guidance" in text
        assert '{"min":1,"max":1,"models":["guided","other"]}' in text


@pytest.mark.parametrize("weight", [-0.5, 20.5, 1e9])
@pytest.mark.parametrize("method", ["guided", "plain"])
def test_a_weight_outside_the_range_is_refused_with_the_range(url: str, method: str, weight: float) -> None:
    results = refusals(url, method, weight)
    assert [(status, field) for status, field, _ in results] == [(status, "guidance") for status in (422, 400, 400)]
    assert all(f'"minimum":0.0,"maximum":{MAX_GUIDANCE}' in text for _, _, text in results), results


def test_guidance_without_a_class_is_refused_with_the_classes(url: str) -> None:
    for status, field, text in refusals(url, "guided", 2.0, label=None):
        assert (status, field) in {(422, "class_label"), (400, "class_label")}
        assert "guidance needs a class" in text
        assert json.dumps(CLASSES, separators=(",", ":")) in text


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", '"2"', "true", "[2]", "null"])
def test_what_is_no_number_is_no_weight(url: str, word: str) -> None:
    body = f'{{"method": "guided", "class_label": 1, "guidance": {word}}}'
    answer = httpx.post(f"{url}/generate", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)


def test_the_client_raises_what_the_service_refuses(url: str) -> None:
    with Client(url) as client, pytest.raises(Refused, match="guidance") as refused:
        client.generate("plain", guidance=2.0, class_label=1)
    assert refused.value.problem["errors"][0]["allowed"]["models"] == ["guided", "other"]


# --- descriptions -----------------------------------------------------------------------------------------------------


def test_a_model_says_whether_it_takes_guidance_and_its_range(url: str) -> None:
    with Client(url) as client:
        listed = {method["method"]: method["guidance"] for method in client.methods()}
    assert listed == {"guided": RANGE, "other": RANGE, "plain": None}
    for method, takes in (("guided", True), ("plain", False)):
        inputs = httpx.get(f"{url}/v2/models/{method}").json()["inputs"]
        assert ({"name": "guidance", "datatype": "FP32", "shape": [1]} in inputs) is takes
        config = httpx.get(f"{url}/v2/models/{method}/config").json()["input"]
        assert [each["name"] for each in config] == [each["name"] for each in inputs]


def test_the_command_lists_the_range_and_refuses_what_is_no_number(url: str, tmp_path: Path) -> None:
    assert trilemma(url, "methods").stdout.count("guidance") == 2
    for weight in ("nan", "inf", "much"):
        done = trilemma(url, "generate", "guided", "--class=1", f"--guidance={weight}", "-o", str(tmp_path / "it.png"))
        assert done.returncode == 2
        assert "argument --guidance" in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_description_has_its_range_and_says_what_it_is(url: str) -> None:
    schemas = httpx.get(f"{url}/openapi.json").json()["components"]["schemas"]
    of_generate = schemas["GenerateRequest"]["properties"]["guidance"]
    (of_openai, _null) = schemas["ImageRequest"]["properties"]["guidance"]["anyOf"]
    for number in (of_generate, of_openai):
        assert (number["type"], number["minimum"], number["maximum"]) == ("number", 0, MAX_GUIDANCE)
    assert of_generate["default"] == 1
    assert "classifier-free guidance" in of_generate["description"]
    assert "`guidance`" in schemas["InferRequest"]["description"]
    assert {"guidance"} <= schemas["GenerateResponse"]["properties"].keys() & schemas["MethodInfo"]["properties"].keys()


# --- auto -------------------------------------------------------------------------------------------------------------


def test_auto_takes_a_model_with_guidance_and_expects_twice_the_time(url: str) -> None:
    body = {"method": "auto", "max_ms": 60_000, "seed": 7, "class_label": 1}
    answer = httpx.post(f"{url}/generate", json={**body, "guidance": 2.5}).json()
    assert (answer["method"], answer["steps"], answer["guidance"]) == ("guided", 3, 2.5)
    assert "distance 2.5 without guidance, 18 ms" in answer["chosen"]
    assert httpx.post(f"{url}/generate", json=body).json()["method"] == "plain"  # faster and nearer, without it
    too_short = httpx.post(f"{url}/generate", json={**body, "max_ms": 17.9, "guidance": 2.5}).json()
    assert too_short["errors"] == [
        {"field": "max_ms", "detail": "no measured point is within it", "allowed": {"min": 18}}
    ]


def test_auto_refuses_guidance_without_a_class_or_a_model_for_it(url: str, tmp_path: Path) -> None:
    body = {"method": "auto", "max_ms": 60_000, "guidance": 2.5}
    answer = httpx.post(f"{url}/generate", json=body)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "class_label")
    write_bundle(tmp_path / "plain", name="plain", measured={"points": [FASTER]})
    with in_this_process(tmp_path, ManyClasses()) as (without, _):
        answer = httpx.post(f"{without}/generate", json={**body, "class_label": 1})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "guidance")
