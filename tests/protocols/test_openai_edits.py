"""OpenAI's edits and variations, spoken by the `openai` package."""

import base64
import io
import tempfile
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from openai import OpenAI
from PIL import Image

from tests.conftest import SHAPE
from tests.picture_files import half, noisy, png, written
from tests.protocols.conftest import files, theirs

PICTURE = noisy(*SHAPE[1:])
FILE = written(Image.fromarray(PICTURE))
HOLE = half(*SHAPE[1:])  # of the mask, as /generate has it
MASK = written(Image.fromarray(np.dstack([PICTURE] * 3 + [255 - HOLE])))
EXTRA = {"seed": 7, "num_inference_steps": 4}
SAME = {"seed": 7, "steps": 4, "image": png(PICTURE)}


@pytest.fixture
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_an_edit_paints_what_is_transparent_anew_and_leaves_the_rest(url: str, client: OpenAI) -> None:
    edited = client.images.edit(model="toy", image=FILE, mask=MASK, prompt="one", n=2, extra_body=EXTRA)
    assert files(edited) == theirs(url, **SAME, mask=png(HOLE), class_label="one", n=2)
    for file in files(edited):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(file)))[:2], PICTURE[:2])
    own_hole = client.images.edit(model="toy", image=[MASK], prompt="one", n=2, extra_body=EXTRA)
    assert files(own_hole) == files(edited)


def test_an_edit_without_a_mask_begins_at_the_image(url: str, client: OpenAI) -> None:
    extra = {**EXTRA, "strength": 0.5, "settings": {"eta": 0.5}, "index": 3}
    edited = client.images.edit(
        model="toy", image=FILE, prompt="one", size="4x4", input_fidelity="high", output_format="webp", extra_body=extra
    )
    same = {**SAME, "strength": 0.5, "settings": {"eta": 0.5}, "index": 3, "format": "webp"}
    assert files(edited) == theirs(url, **same, class_label="one")


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # OpenAI's own models no longer vary
def test_a_variation_is_an_image_of_no_class(url: str, client: OpenAI) -> None:
    varied = client.images.create_variation(model="toy", image=FILE, n=3, response_format="b64_json", extra_body=EXTRA)
    assert files(varied) == theirs(url, **SAME, n=3)


def test_a_stream_of_an_edit_has_the_events_of_an_edit(url: str, client: OpenAI) -> None:
    stream = client.images.edit(
        model="toy",
        image=FILE,
        mask=MASK,
        prompt="one",
        stream=True,
        partial_images=2,
        extra_body={**EXTRA, "num_inference_steps": 9},
    )
    *partial, completed = list(stream)
    assert [each.type for each in partial] == ["image_edit.partial_image"] * 2
    assert completed.type == "image_edit.completed"
    assert [base64.b64decode(completed.b64_json)] == theirs(
        url, **{**SAME, "steps": 9}, mask=png(HOLE), class_label="one"
    )


def test_a_large_file_needs_no_place_on_the_disk(url: str, client: OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    large = written(Image.fromarray(noisy(1200, 1200)))
    assert len(large) > 2**20
    edited = client.images.edit(model="toy", image=large, prompt="one", extra_body={**EXTRA, "strength": 1})
    assert len(files(edited)) == 1


GREY = written(Image.fromarray(HOLE))


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"image": b"no picture"}, "image", "PNG"),
        ({"image": FILE[:40]}, "image", ""),
        ({"image": [FILE, FILE]}, "image", "more than once"),
        ({"mask": GREY}, "mask", "alpha"),
        ({"mask": written(Image.new("RGBA", (8, 8)))}, "mask", "4x4"),
        ({"prompt": "a cat"}, "prompt", '["zero","one","2"]'),
        ({"size": "1024x1024"}, "size", '["auto","4x4"]'),
        ({"n": 65}, "n", '"maximum":64'),
        ({"extra_body": {"strength": 0}}, "strength", "greater than 0"),
        ({"extra_body": {"num_inference_steps": "many"}}, "num_inference_steps", '"minimum":1'),
        ({"extra_body": {"settings": {"churn": 1}}}, "settings.churn", "eta"),
        ({"extra_body": {"negative_prompt": "two"}}, "negative_prompt", '"num_inference_steps"'),
    ],
)
def test_a_bad_field_is_named_with_what_it_may_be(
    client: OpenAI, fields: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.edit(**{"model": "toy", "image": FILE, "prompt": "one", **fields})
    assert (refused.value.param, refused.value.type) == (field, "invalid_request_error")
    assert words in refused.value.message


@pytest.mark.parametrize(
    ("content_type", "content"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b"--x"),
        ("multipart/form-data; boundary=x", b"--y\r\n\r\n--y--"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' * 50 + b"--x--",
        ),
        ("text/plain", b""),
    ],
)
def test_another_body_is_refused_in_openais_form(url: str, content_type: str, content: bytes) -> None:
    answer = httpx.post(f"{url}/v1/images/edits", content=content, headers={"content-type": content_type})
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
