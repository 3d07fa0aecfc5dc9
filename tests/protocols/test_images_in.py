"""Image-to-image, inpainting, inversion and interpolation over HTTP: what is kept, what is refused, and what ends."""

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.conftest import SHAPE, WITHIN_S, ToyRuntime, write_bundle
from tests.deploy.conftest import in_this_process
from tests.picture_files import base64_of, half, noisy, png, written
from tests.protocols.conftest import own
from tests.service.conftest import Held

PICTURE = noisy(*SHAPE[1:])
IMAGE, MASK = png(PICTURE), png(half(*SHAPE[1:]))
NOISE = np.random.default_rng(1).standard_normal(SHAPE).astype("<f4")


def answer(url: str, path: str = "/generate", **fields: Any) -> httpx.Response:
    return httpx.post(f"{url}{path}", json={"method": "toy", **fields})


def generated(url: str, **fields: Any) -> list[np.ndarray[Any, Any]]:
    """The pictures of a JSON answer."""
    images = json.loads(own(url, "application/json", **fields))["images"]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(image["data"])))) for image in images]


def test_the_known_part_of_an_image_comes_back_exactly(url: str) -> None:
    for n, fields in ((1, {}), (3, {"strength": 0.5}), (2, {"eta": 1}), (1, {"solver": "dpmpp_2m"})):
        for image in generated(url, image=IMAGE, mask=MASK, seed=1, n=n, **fields):
            np.testing.assert_array_equal(image[:2], PICTURE[:2])
            assert (image[2:] != PICTURE[2:]).any()
    black = png(np.zeros(SHAPE[1:], dtype=np.uint8))
    np.testing.assert_array_equal(generated(url, image=IMAGE, mask=black, seed=1)[0], PICTURE)


def test_strength_is_the_share_of_the_steps_that_are_taken(url: str) -> None:
    def steps(**fields: Any) -> int:
        body = {"method": "toy", "seed": 1, "image": IMAGE, "steps": 10, **fields}
        events = httpx.post(f"{url}/generate", json=body, headers={"Accept": "text/event-stream"}).text
        return events.count("event: step")

    shares = {"strength": 0.25}, {"strength": 0.01}, {"strength": 1}, {}, {"mask": MASK}
    assert [steps(**fields) for fields in shares] == [2, 1, 10, 8, 10]


def test_a_weaker_change_stays_nearer_to_the_image(url: str) -> None:
    images = [generated(url, image=IMAGE, strength=share, steps=50, seed=1)[0] for share in (0.02, 0.3, 1)]
    distances = [np.abs(image.astype(int) - PICTURE).mean() for image in images]
    assert distances == sorted(distances)
    assert len(set(distances)) == 3


def test_everything_that_decides_the_image_is_in_its_etag(url: str) -> None:
    other = png(255 - PICTURE)
    noise, more = base64_of(NOISE.tobytes()), base64_of((NOISE / 2).tobytes())
    fields: list[dict[str, Any]] = [
        {},
        {"image": IMAGE},
        {"image": other},
        {"image": IMAGE, "strength": 0.4},
        {"image": IMAGE, "mask": MASK},
        {"image": IMAGE, "mask": other},
        {"noise": noise},
        {"noise": more},
        {"noise": noise, "to_noise": more, "n": 2},
        {"to_seed": 2, "n": 2},
        {"to_seed": 3, "n": 2},
    ]
    tags = [answer(url, seed=1, **each).raise_for_status().headers["etag"] for each in fields]
    assert len(set(tags)) == len(fields)
    again = [answer(url, seed=1, **each) for each in fields]
    assert [each.headers["etag"] for each in again] == tags
    assert {each.headers["trilemma-cache"] for each in again} == {"hit"}
    jpeg = base64_of(written(Image.fromarray(PICTURE), "WEBP", lossless=True))
    assert answer(url, seed=1, image=jpeg).headers["etag"] == tags[1]  # the same pixels in another file


def test_the_ends_of_an_interpolation_are_the_images_themselves(url: str) -> None:
    for fields in ({}, {"eta": 1}, {"steps": 1}, {"index": 3, "class_label": "one"}):
        first, *between, last = np.load(io.BytesIO(own(url, seed=1, to_seed=2, n=5, **fields)))
        for end, seed in ((first, 1), (last, 2)):
            assert end[None].tobytes() == np.load(io.BytesIO(own(url, seed=seed, **fields))).tobytes()
        assert len({image.tobytes() for image in between} - {first.tobytes(), last.tobytes()}) == 3
    noises = base64_of(NOISE.tobytes()), base64_of(NOISE[:, ::-1].tobytes())
    first, last = np.load(io.BytesIO(own(url, seed=1, noise=noises[0], to_noise=noises[1], n=2)))
    for end, noise in ((first, noises[0]), (last, noises[1])):
        assert end[None].tobytes() == np.load(io.BytesIO(own(url, seed=1, noise=noise))).tobytes()


def test_the_mean_of_two_noises_is_spherical() -> None:
    from service.engine.start import slerp

    a, b = np.array([3.0, 0, 0], dtype=np.float32), np.array([0, 3.0, 0], dtype=np.float32)
    np.testing.assert_allclose(slerp(a, b, 0.5), [4.5**0.5, 4.5**0.5, 0], rtol=1e-6)
    np.testing.assert_allclose(slerp(a, b, 1 / 3), [3 * 0.75**0.5, 1.5, 0], rtol=1e-6)
    np.testing.assert_array_equal(slerp(a, a, 0.3), a)


def test_an_image_goes_to_its_noise_and_back(url: str) -> None:
    grey = np.linspace(100, 150, 16).astype(np.uint8).reshape(SHAPE[1:])
    found = answer(url, "/invert", image=png(grey), steps=50).raise_for_status().json()
    noise = np.frombuffer(base64.b64decode(found["noise"]), "<f4").reshape(found["shape"])
    body = {"method": "toy", "image": png(grey), "steps": 50}
    array = httpx.post(f"{url}/invert", json=body, headers={"Accept": "application/x-npy"})
    np.testing.assert_array_equal(np.load(io.BytesIO(array.content))[0], noise)
    way = {name: found[name] for name in ("steps", "solver", "settings", "noise")}
    (back,) = generated(url, seed=0, **way)
    assert np.sqrt(np.mean((back.astype(float) - grey) ** 2)) / 255 < 0.02
    assert httpx.post(f"{url}/invert", json=body, headers={"If-None-Match": "*, x"}).status_code == 200
    tag = answer(url, "/invert", image=png(grey), steps=50).headers["etag"]
    assert httpx.post(f"{url}/invert", json=body, headers={"If-None-Match": tag}).status_code == 304


N = base64_of(NOISE.tobytes())
REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("image", {"image": "no base64"}),
    ("image", {"image": base64_of(b"no picture")}),
    ("image", {"image": 7}),
    ("image", {"image": IMAGE, "method": "auto", "max_ms": 100}),
    ("strength", {"image": IMAGE, "strength": 0}),
    ("strength", {"image": IMAGE, "strength": 1.5}),
    ("strength", {"strength": 0.5}),
    ("mask", {"mask": MASK}),
    ("mask", {"image": IMAGE, "mask": png(half(8, 8))}),
    ("noise", {"noise": base64_of(b"1234")}),
    ("noise", {"noise": N, "image": IMAGE}),
    ("noise", {"noise": N, "to_seed": 2, "n": 2}),
    ("to_noise", {"to_noise": N, "n": 2}),
    ("n", {"to_seed": 2}),
    ("n", {"noise": N, "to_noise": N, "n": 1}),
    ("to_seed", {"to_seed": -1, "n": 2}),
]


@pytest.mark.parametrize(("field", "fields"), REFUSED)
def test_what_cannot_be_done_is_refused_by_its_name(url: str, field: str, fields: dict[str, Any]) -> None:
    refused = answer(url, **fields)
    assert (refused.status_code, refused.headers["content-type"]) == (422, "application/problem+json")
    assert refused.json()["errors"][0]["field"] == field


def test_models_say_what_they_take(tmp_path: Path) -> None:
    """A GAN of large steps has no plan backwards, and latents without an encoder take no image."""
    write_bundle(
        tmp_path / "gan",
        name="gan",
        family="ddgan",
        noise_schedule={"alphas_cumprod": [0.9, 0.5, 0.1, 0.01]},
        recommended_steps=4,
    )
    write_bundle(tmp_path / "toy")
    with in_this_process(tmp_path, ToyRuntime()) as (url, _):
        takes = {each["method"]: (each["images"], each["inverts"]) for each in httpx.get(f"{url}/methods").json()}
        assert takes == {"gan": (True, False), "toy": (True, True)}
        refused = answer(url, "/invert", method="gan", image=IMAGE)
        assert refused.json()["errors"][0]["field"] == "method"
        assert answer(url, method="gan", image=IMAGE, mask=MASK).status_code == 200


def test_such_requests_have_deadlines_and_are_cancelled(held: tuple[str, Held]) -> None:
    url, runtime = held
    assert answer(url, image=IMAGE, deadline_ms=1).status_code == 429
    assert answer(url, "/invert", image=IMAGE, deadline_ms=1).status_code == 429
    with ThreadPoolExecutor() as pool:
        requests = [
            pool.submit(
                httpx.post,
                f"{url}{path}",
                json={"method": "toy", "image": IMAGE, **more},
                headers={"X-Request-ID": "it"},
            )
            for path, more in (("/invert", {}), ("/generate", {"mask": MASK, "n": 9}))
        ]
        assert runtime.entered.wait(WITHIN_S)
        while not all(each.done() for each in requests):
            httpx.delete(f"{url}/requests/it")
        codes = {each.result().status_code for each in requests}
    assert codes == {409}
