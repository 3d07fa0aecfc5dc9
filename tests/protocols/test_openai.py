"""OpenAI's image generation, spoken by the `openai` package."""

import base64
import io
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from openai import OpenAI
from PIL import Image

from tests.conftest import WITHIN_S
from tests.protocols.conftest import KEY, files, theirs
from tests.service.conftest import Held


@pytest.fixture
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_the_files_are_those_of_generate(url: str, client: OpenAI, output_format: Any) -> None:
    extra = {"seed": 7, "num_inference_steps": 4}
    made = client.images.generate(
        model="toy", prompt="one", n=3, size="4x4", output_format=output_format, extra_body=extra
    )
    assert files(made) == theirs(url, class_label="one", seed=7, steps=4, n=3, format=output_format)
    assert (made.size, made.output_format) == ("4x4", output_format)


def test_a_drawn_seed_is_told_and_gives_the_same_again(url: str, client: OpenAI) -> None:
    made = client.images.generate(model="toy", prompt="2", response_format="b64_json", quality="high", user="me")
    seed = made.model_extra["seed"]  # type: ignore[index]
    assert files(made) == theirs(url, class_label="2", seed=seed)


@pytest.mark.parametrize(("steps", "partial_images", "expected"), [(20, 3, 3), (7, 2, 2), (2, 3, 1), (5, 0, 0)])
def test_a_stream_has_partial_images_and_then_the_image(
    url: str, client: OpenAI, steps: int, partial_images: int, expected: int
) -> None:
    extra = {"seed": 7, "num_inference_steps": steps}
    stream = client.images.generate(
        model="toy", prompt="one", stream=True, partial_images=partial_images, extra_body=extra
    )
    *partial, completed = list(stream)
    assert [each.type for each in partial] == ["image_generation.partial_image"] * expected
    assert [each.partial_image_index for each in partial] == list(range(expected))  # type: ignore[union-attr]
    assert all(Image.open(io.BytesIO(base64.b64decode(each.b64_json))).size == (4, 4) for each in partial)
    assert len({each.b64_json for each in [*partial, completed]}) == expected + 1
    assert completed.type == "image_generation.completed"
    assert completed.usage.total_tokens == 0
    assert base64.b64decode(completed.b64_json) == theirs(url, class_label="one", seed=7, steps=steps)[0]


def test_a_streams_events_have_the_seed_that_was_drawn(url: str, client: OpenAI) -> None:
    raw = client.images.with_raw_response.generate(
        model="toy", prompt="one", stream=True, partial_images=2, extra_body={"num_inference_steps": 9}
    )
    events = list(raw.parse())
    (seed,) = {event.model_extra["seed"] for event in events}  # type: ignore[index]
    assert str(seed) == raw.headers["trilemma-seed"]
    assert base64.b64decode(events[-1].b64_json) == theirs(url, class_label="one", seed=seed, steps=9)[0]


def test_models_are_the_methods(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["toy"]
    assert client.models.retrieve("toy").object == "model"
    with pytest.raises(openai.NotFoundError) as missing:
        client.models.retrieve("dall-e-3")
    assert (missing.value.code, missing.value.status_code) == ("model_not_found", 404)


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"prompt": "a cat"}, "prompt", '["zero","one","2"]'),
        ({"prompt": ""}, "prompt", '["zero","one","2"]'),
        ({"size": "1024x1024"}, "size", '["auto","4x4"]'),
        ({"response_format": "url"}, "response_format", "b64_json"),
        ({"n": 65}, "n", '"maximum":64'),
        ({"seed": 2**64}, "seed", '"maximum":18446744073709551615'),
        ({"num_inference_steps": 0}, "num_inference_steps", '"minimum":1'),
        ({"num_inference_steps": 1001}, "num_inference_steps", '"max":1000'),
        ({"stream": True, "n": 2}, "n", '"max":1'),
        ({"partial_images": 4, "stream": True}, "partial_images", '"maximum":3'),
        ({"negative_prompt": "two"}, "negative_prompt", '"num_inference_steps"'),
    ],
)
def test_a_bad_field_is_named_with_what_it_may_be(
    client: OpenAI, changes: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.generate(model="toy", prompt="one", extra_body=changes)
    assert (refused.value.param, refused.value.type) == (field, "invalid_request_error")
    assert words in refused.value.message


def test_a_full_queue_is_a_rate_limit_that_says_when_to_come_back(held: tuple[str, Held]) -> None:
    url, runtime = held
    with (
        OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
        client.images.generate(model="toy", prompt="one", stream=True),
    ):
        assert runtime.entered.wait(WITHIN_S)
        with pytest.raises(openai.RateLimitError) as refused:
            client.images.generate(model="toy", prompt="2", n=64)
    assert (refused.value.code, refused.value.type) == ("rate_limit_exceeded", "rate_limit_error")
    assert int(refused.value.response.headers["retry-after"]) >= 1


def test_what_fails_on_the_way_is_an_error_of_the_stream(held: tuple[str, Held]) -> None:
    url, runtime = held
    runtime.fail_on = {1}
    runtime.go.set()
    with OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        stream = client.images.generate(model="toy", prompt="one", stream=True)
        with pytest.raises(openai.APIError, match="a step of toy failed"):
            list(stream)


def test_a_key_is_sent_as_openai_sends_it(locked: str) -> None:
    with (
        OpenAI(base_url=f"{locked}/v1", api_key="wrong") as client,
        pytest.raises(openai.AuthenticationError) as refused,
    ):
        client.models.list()
    assert refused.value.code == "invalid_api_key"
    with OpenAI(base_url=f"{locked}/v1", api_key=KEY) as client:
        made = client.images.generate(model="toy", prompt="one")
    assert np.asarray(Image.open(io.BytesIO(files(made)[0]))).shape == (4, 4)


def test_the_frameworks_errors_are_in_openais_form_too(url: str) -> None:
    for answer, status in (
        (httpx.get(f"{url}/v1/nowhere"), 404),
        (httpx.get(f"{url}/v1/images/generations"), 405),
        (httpx.post(f"{url}/v1/images/generations", content="{"), 415),
        (httpx.post(f"{url}/v1/images/generations", content="{", headers={"content-type": "application/json"}), 400),
    ):
        assert (answer.status_code, answer.json()["error"]["type"]) == (status, "invalid_request_error")
    assert httpx.get(f"{url}/v1/nowhere").json()["error"]["code"] is None
