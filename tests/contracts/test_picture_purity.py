"""What begins at a picture, lies between two seeds or goes backwards has the same bytes alone and in any company."""

import asyncio
import base64
import hashlib
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.contracts.conftest import serving
from tests.picture_files import base64_of, half, noisy, png

WAYS: dict[str, list[dict[str, Any]]] = {  # by method: solvers to begin with
    "ddim": [{}, {"eta": 1.0}, {"solver": "dpmpp_2m"}],
    "vdm": [{}, {"solver": "ddim"}],
    "ddgan": [{}],
    "latent": [{}, {"solver": "dpmpp_2m"}],
}


def requests() -> list[tuple[str, dict[str, Any]]]:
    """Paths and bodies, of every model."""
    bodies: list[tuple[str, dict[str, Any]]] = []
    for method, ways in WAYS.items():
        for number, way in enumerate(ways):
            image, mask = png(noisy(32, 32, seed=number)), png(half(32, 32))
            state = (4, 8, 8) if method == "latent" else (1, 32, 32)
            noise = [np.random.default_rng(seed).standard_normal(state).astype("<f4").tobytes() for seed in (1, 2)]
            fields: list[dict[str, Any]] = [
                {},
                {"image": image, "strength": 0.7, "n": 2},
                {"image": image, "mask": mask, "n": 3},
                {"image": image, "mask": mask, "strength": 0.6, "class_label": 3},
                {"to_seed": 5, "n": 4, "class_label": 1},
                {"noise": base64_of(noise[0])},
                {"noise": base64_of(noise[0]), "to_noise": base64_of(noise[1]), "n": 3},
            ]
            steps = 4 if method == "ddgan" else 5
            bodies += [("/generate", {"method": method, "steps": steps, "seed": 9, **way, **each}) for each in fields]
            if method != "ddgan":
                bodies.append(("/invert", {"method": method, "steps": 3 + number, "image": image, "class_label": 7}))
    return bodies


async def digests(client: Any, at_once: int) -> list[str]:
    free = asyncio.Semaphore(at_once)

    async def ask(path: str, body: dict[str, Any]) -> str:
        async with free:
            answer = await client.post(path, json=body, headers={"Accept": "application/x-npy"})
        assert answer.status_code == 200, answer.text
        return hashlib.sha256(answer.content).hexdigest()

    return await asyncio.gather(*(ask(*each) for each in requests()))


def test_requests_with_pictures_give_the_bytes_that_each_gives_alone() -> None:
    async def alone() -> list[str]:
        async with serving(methods=[*WAYS], workers=1, max_batch=1, max_backlog_s=3600) as client:
            return await digests(client, at_once=1)

    async def together() -> list[str]:
        async with serving(full_batches=True, methods=[*WAYS], workers=2, threads=2, max_backlog_s=3600) as client:
            return await digests(client, at_once=64)

    found = asyncio.run(together())
    assert found == asyncio.run(alone())
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("method", ["ddim", "vdm"])
def test_an_image_that_another_model_made_goes_to_its_noise_and_back(method: str) -> None:
    """50 steps each: within a root mean square error of 0.02 of the range."""

    async def errors() -> list[float]:
        async with serving(methods=["ddgan", method], max_backlog_s=3600) as client:
            made = await client.post("/generate", json={"method": "ddgan", "seed": 3, "n": 4, "class_label": 5})
            found = []
            for image in made.json()["images"]:
                body = {"method": method, "image": image["data"], "steps": 50, "class_label": 5}
                way = (await client.post("/invert", json=body)).json()
                fields = {name: way[name] for name in ("method", "steps", "solver", "settings", "class_label", "noise")}
                back = (await client.post("/generate", json={**fields, "seed": 0})).json()["images"][0]
                before, after = (
                    np.asarray(Image.open(io.BytesIO(base64.b64decode(each["data"])))).astype(float)
                    for each in (image, back)
                )
                found.append(float(np.sqrt(np.mean((after - before) ** 2)) / 255))
            return found

    found = asyncio.run(errors())
    assert max(found) < 0.02
    assert len(set(found)) == len(found)
