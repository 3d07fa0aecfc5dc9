"""An image of a larger request can be had alone, by its index, with the same bytes; and no other request changes."""

import asyncio
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bundle.loading import Bundle, load
from service.requests.encoding import one_each, one_for_all
from service.requests.etag import etag
from service.requests.resolve import Sampling
from tests.conftest import SHIPPED, write_bundle
from tests.contracts.conftest import serving
from tests.service.engine.conftest import alone, job

BUNDLES = [load(path.parent) for path in sorted(SHIPPED.parent.glob("*/manifest.json"))]
WAYS = [(bundle, solver) for bundle in BUNDLES for solver in bundle.solvers]
IMAGES = 5
SAMPLING: dict[str, Any] = {
    "digest": "ab" * 32,
    "method": "ddim",
    "steps": 20,
    "solver": "ddim",
    "settings": (("eta", 0.5),),
    "label": 3,
    "seed": 2**64 - 1,
    "n": 2,
}


@pytest.fixture(scope="module")
def toy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return load(write_bundle(tmp_path_factory.mktemp("bundles") / "toy"))


async def array(client: Any, **request: Any) -> NDArray[np.float32]:
    answer = await client.post("/generate", json=request, headers={"Accept": "application/x-npy"})
    loaded: NDArray[np.float32] = np.load(io.BytesIO(answer.raise_for_status().content), allow_pickle=False)
    return loaded


@pytest.mark.parametrize(("bundle", "solver"), WAYS)
def test_an_image_alone_is_that_image_of_the_larger_request(bundle: Bundle, solver: str) -> None:
    highest = {name: setting.high for name, setting in bundle.solvers[solver].settings.items()}  # the most noise
    steps = (bundle.solvers[solver].steps or [min(4, bundle.max_steps)])[0]
    request = {"method": bundle.manifest.name, "steps": steps, "solver": solver, "seed": 7}
    request |= {"settings": highest, "class_label": 3}

    async def ask() -> None:
        async with serving(methods=[bundle.manifest.name]) as client:
            together = await array(client, n=IMAGES, **request)
            singly = [await array(client, index=index, **request) for index in range(IMAGES)]
            some = await array(client, index=1, n=3, **request)
        assert np.concatenate(singly).tobytes() == together.tobytes()
        assert some.tobytes() == together[1:4].tobytes()
        assert len({image.tobytes() for image in together}) == IMAGES

    asyncio.run(ask())


@settings(max_examples=30)
@given(first=st.integers(0, 2**31 - 1), n=st.integers(1, 4), offset=st.integers(0, 3), seed=st.integers(0, 2**64 - 1))
def test_parts_of_a_seed_fit_together_wherever_they_begin(
    toy_bundle: Bundle, first: int, n: int, offset: int, seed: int
) -> None:
    first, offset = min(first, 2**31 - 1 - offset), min(offset, n - 1)
    whole = alone(job(toy_bundle, steps=3, settings={"eta": 1.0}, seed=seed, index=first, n=n))
    part = alone(job(toy_bundle, steps=3, settings={"eta": 1.0}, seed=seed, index=first + offset, n=n - offset))
    assert part.tobytes() == whole[offset:].tobytes()


def test_a_part_has_an_etag_a_job_and_indices_of_its_own() -> None:
    async def ask() -> None:
        async with serving(methods=["ddim"]) as client:
            request = {"method": "ddim", "steps": 2, "seed": 7, "n": 2}
            answers = [
                await client.post("/generate", json={**request, "index": index}, headers={"Accept": "application/json"})
                for index in (0, 3)
            ]
            stream = await client.post(
                "/generate", json={**request, "index": 3}, headers={"Accept": "text/event-stream"}
            )
        first, later = (answer.json() for answer in answers)
        assert [image["index"] for image in first["images"]] == [0, 1]
        assert [image["index"] for image in later["images"]] == [3, 4]
        assert not {image["sha256"] for image in first["images"]} & {image["sha256"] for image in later["images"]}
        assert answers[0].headers["etag"] != answers[1].headers["etag"]
        assert answers[1].headers["trilemma-cache"] == "miss"
        assert '"image":3,' in stream.text
        assert '"image":0,' not in stream.text

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        (one_each("png"), 'W/"105f4b0a8ea77567ce54e72e32200befdf01bcee8fdf067235840805086de510"'),
        (one_each("webp"), 'W/"fb01ebc57bc4274b86f7b93e743144050ffbf114621745cebb9258d21412fb1b"'),
        (one_for_all("npy"), '"d4cabc2158f96902ce68f93962aa9d0390640dd4bcbf683140671721f56348a0"'),
        (one_for_all("png"), '"b65bd5f5c80efaac5877ca42d2893090a4972c289a2faa639fd2287128dd1691"'),
    ],
)
def test_the_etags_of_requests_without_an_index_are_what_they_were(encoding: Any, expected: str) -> None:
    assert etag(Sampling(**SAMPLING), encoding) == etag(Sampling(**SAMPLING, index=0), encoding) == expected
    assert etag(Sampling(**SAMPLING, index=1), encoding) != expected
