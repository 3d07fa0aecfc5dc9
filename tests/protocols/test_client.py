"""The client of the distribution, at a real server."""

import asyncio
import base64
import io
import subprocess
import sys
import threading
import time
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.conftest import REPOSITORY, WITHIN_S
from tests.protocols.conftest import KEY, OTHER_KEY, own
from tests.protocols.test_openai import theirs
from tests.service.conftest import Held
from trilemma import AsyncClient, Client, Generated, Refused, Step


def test_images_and_arrays_are_those_of_generate(url: str) -> None:
    asked = {"steps": 4, "seed": 2**64 - 1, "class_label": "one", "n": 3}
    with Client(url) as client:
        made, array = client.generate("toy", **asked), client.array("toy", **asked)
    assert made.files == theirs(url, **asked)
    assert made.seed == 2**64 - 1
    assert [image.size for image in made.images] == [(4, 4)] * 3
    assert array.tobytes() == np.load(io.BytesIO(own(url, **asked))).tobytes()


def test_a_stream_tells_each_step_and_ends_with_the_images(url: str) -> None:
    with Client(url) as client:
        *steps, made = client.stream("toy", steps=4, seed=1, n=2, preview_every=2)
    for image in range(2):  # whose steps may run beside the other's
        told = [step for step in steps if isinstance(step, Step) and step.image == image]
        assert [step.index for step in told] == [1, 2, 3, 4]
        assert [step.preview is not None for step in told] == [False, True, False, True]
    assert len(steps) == 8
    assert isinstance(made, Generated)
    assert made.files == theirs(url, steps=4, seed=1, n=2)


def test_asyncio_gets_the_same(url: str) -> None:
    async def ask() -> None:
        async with AsyncClient(url) as client:
            made = await asyncio.gather(*(client.generate("toy", seed=seed) for seed in range(8)))
            assert [each.files for each in made] == [theirs(url, seed=seed) for seed in range(8)]
            assert (await client.array("toy", seed=1)).shape == (1, 1, 4, 4)
            assert (await client.methods())[0]["method"] == "toy"
            async with aclosing(client.stream("toy", steps=3, seed=1)) as stream:
                told = [each async for each in stream]
            assert isinstance(told[-1], Generated)
            assert told[-1].files == theirs(url, steps=3, seed=1)
            with pytest.raises(Refused, match="steps"):
                await client.generate("toy", steps=0)

    asyncio.run(ask())


def test_a_refusal_names_the_field_and_its_range(url: str) -> None:
    with Client(url) as client:
        for ask in (lambda: client.generate("toy", steps=1001), lambda: list(client.stream("toy", steps=1001))):
            with pytest.raises(Refused) as refused:
                ask()
            assert refused.value.status == 422
            assert refused.value.problem["errors"][0]["allowed"] == {"min": 1, "max": 1000}


def test_what_fails_on_the_way_is_raised(held: tuple[str, Held]) -> None:
    url, runtime = held
    runtime.fail_on = {1}
    runtime.go.set()
    with Client(url) as client, pytest.raises(Refused, match="a step of toy failed"):
        list(client.stream("toy", class_label=1))


def test_a_full_queue_is_asked_again_after_as_long_as_it_says(
    held: tuple[str, Held], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, runtime = held
    waited: list[float] = []
    with Client(url) as first, Client(url) as second:
        asking = threading.Thread(target=lambda: first.generate("toy", steps=2))
        asking.start()
        assert runtime.entered.wait(WITHIN_S)

        def sleep(seconds: float) -> None:
            waited.append(seconds)
            runtime.go.set()
            asking.join()

        monkeypatch.setattr("httpx_retries.retry.time", SimpleNamespace(sleep=sleep, time=time.time))
        assert len(second.generate("toy", n=64, steps=1).files) == 64
    assert waited == [1.0]


def test_a_key_is_sent(locked: str) -> None:
    with Client(locked, retries=0) as client, pytest.raises(Refused, match="401"):
        client.methods()
    for key in (KEY, OTHER_KEY):
        with Client(locked, key=key) as client:
            assert client.methods()[0]["method"] == "toy"


def test_the_client_imports_nothing_of_the_service() -> None:
    script = "import sys, trilemma.command; print(*{name.partition('.')[0] for name in sys.modules})"
    output = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, check=True, text=True)
    assert not {"service", "models", "fastapi", "onnxruntime", "pydantic"} & set(output.stdout.split())


def test_a_picture_is_the_file(url: str) -> None:
    with Client(url) as client:
        made = client.generate("toy", seed=1, format="webp")
    np.testing.assert_array_equal(np.asarray(made.images[0]), np.asarray(Image.open(io.BytesIO(made.files[0]))))


def test_likelihoods_are_those_of_the_service_for_pictures_and_arrays(url: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 4, 4)).astype(np.uint8)
    asked = {"seed": 5, "terms": 8, "class_label": ["one", None, "zero"]}
    body = {"method": "toy", "image": base64.b64encode(npy(images)).decode(), **asked}
    answer = httpx.post(f"{url}/likelihood", json=body, verify=False).json()  # noqa: S501
    expected = [image["bits_per_dimension"] for image in answer["images"]]
    with Client(url) as client:
        scored = client.likelihood("toy", images, **asked)
        one = client.likelihood("toy", Image.fromarray(images[1, 0]), seed=5, index=1, terms=8)
        single = client.likelihood("toy", images[0], terms=1)
        with pytest.raises(Refused, match="terms"):
            client.likelihood("toy", images, terms=0)
    assert (scored.bits_per_dimension.tolist(), scored.seed) == (expected, 5)
    assert one.bits_per_dimension.tolist() == expected[1:2]
    assert (scored.standard_error > 0).all()
    assert np.isnan(single.standard_error).all()

    async def ask() -> list[float]:
        async with AsyncClient(url) as client:
            return (await client.likelihood("toy", images, **asked)).bits_per_dimension.tolist()

    assert asyncio.run(ask()) == expected


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()
