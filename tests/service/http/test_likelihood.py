"""`POST /likelihood` over a toy model: its forms, its refusals, and what it has in common with `/generate`."""

import base64
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image

from service.http.body_limit import MAX_UPLOADS
from tests.conftest import SHAPE, WITHIN_S, ToyRuntime, write_bundle
from tests.service.conftest import Held, serve

IMAGES = np.random.default_rng(0).integers(0, 256, (5, *SHAPE)).astype(np.uint8)
NPY = "application/x-npy"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("served")
    write_bundle(folder / "toy")
    write_bundle(folder / "gan", name="gan", family="ddgan", latent=4)
    write_bundle(folder / "nested", name="nested", latent=4)
    with serve(folder, ToyRuntime()) as client:
        yield client


def npy(array: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def picture(array: NDArray[Any], format: str = "png", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, format, **options)
    return stream.getvalue()


def post(client: TestClient, image: Any = IMAGES[0], accept: str = "*/*", **fields: Any) -> Any:
    """As JSON, each image an npy file."""
    files = image if isinstance(image, str | list) else base64.b64encode(npy(image)).decode()
    body = {"method": "toy", "image": files, "seed": 1, "terms": 4, **fields}
    return client.post("/likelihood", json=body, headers={"Accept": accept})


def upload(client: TestClient, content: bytes, media_type: str, **query: Any) -> Any:
    query = {"method": "toy", "seed": 1, "terms": 4, **query}
    return client.post("/likelihood", params=query, content=content, headers={"Content-Type": media_type})


def numbers(answer: Any) -> list[Any]:
    """Of each image, without its index."""
    assert answer.status_code == 200, answer.text
    return [{key: value for key, value in image.items() if key != "index"} for image in answer.json()["images"]]


def refusal(answer: Any) -> tuple[int, str, Any]:
    assert answer.headers["content-type"] == "application/problem+json"
    (error,) = answer.json()["errors"]
    return answer.status_code, error["field"], error["allowed"]


def test_the_bits_are_the_sum_of_the_bounds_parts(client: TestClient) -> None:
    answer = post(client, IMAGES, class_label="one").json()
    assert (answer["method"], answer["terms"], answer["seed"]) == ("toy", 4, 1)
    for image in answer["images"]:
        assert image["bits_per_dimension"] == pytest.approx(sum(image["bound"].values()))
        assert image["standard_error"] > 0
        assert image["class_label"] == "one"
    assert [image["index"] for image in answer["images"]] == [0, 1, 2, 3, 4]


def test_an_image_has_the_same_numbers_alone_in_an_array_in_a_list_and_as_a_file(client: TestClient) -> None:
    together = numbers(post(client, IMAGES))
    files = [base64.b64encode(npy(image[None])).decode() for image in IMAGES]
    assert numbers(post(client, files)) == together
    assert numbers(upload(client, npy(IMAGES), NPY)) == together
    for index, image in enumerate(IMAGES):
        assert numbers(post(client, image[None], index=index)) == [together[index]]
        assert numbers(upload(client, picture(image[0]), "image/png", index=index)) == [together[index]]
        assert numbers(upload(client, npy(image[0]), NPY, index=index)) == [together[index]]
    assert numbers(post(client, IMAGES, seed=2)) != together
    floats = (IMAGES / np.float32(127.5) - 1).astype(np.float32)
    assert numbers(post(client, floats)) == together


def test_the_array_has_a_row_an_image_of_the_numbers_in_the_json(client: TestClient) -> None:
    answer = post(client, IMAGES, accept=NPY)
    rows = np.load(io.BytesIO(answer.content))
    assert (rows.dtype, rows.shape) == (np.float64, (5, 5))
    for row, image in zip(rows.tolist(), numbers(post(client, IMAGES)), strict=True):
        assert row == [image["bits_per_dimension"], image["standard_error"], *image["bound"].values()]
    assert answer.headers["etag"].startswith('"')
    assert post(client, accept="image/png").status_code == 406
    assert post(client, accept="text/event-stream").status_code == 406


def test_classes_are_one_for_all_or_one_for_each(client: TestClient) -> None:
    each = numbers(post(client, IMAGES, class_label=["one", 0, None, "2", 1]))
    assert [image["class_label"] for image in each] == ["one", "zero", None, "2", "one"]
    assert each[0] == numbers(post(client, IMAGES, class_label=1))[0]
    assert each == numbers(upload(client, npy(IMAGES), NPY, class_label=["one", "0", "", "2", "one"]))
    assert refusal(post(client, IMAGES, class_label=["one"])) == (422, "class_label", {"length": 5})
    assert refusal(post(client, class_label="four"))[:2] == (422, "class_label")


def test_all_is_every_timestep_and_one_has_no_standard_error(client: TestClient) -> None:
    assert client.get("/methods").json()[2]["likelihood"] == {"min": 1, "max": 999, "default": 32}
    whole = post(client, terms="all").json()
    assert whole["terms"] == 999
    assert numbers(post(client, terms=999)) == numbers(post(client, terms="all"))
    assert whole["images"][0]["standard_error"] < numbers(post(client, terms=8))[0]["standard_error"]
    assert numbers(post(client, terms=1))[0]["standard_error"] is None
    assert (
        client.post("/likelihood", json={"method": "toy", "image": base64.b64encode(npy(IMAGES)).decode()}).json()[
            "terms"
        ]
        == 32
    )


def test_models_without_a_bound_are_refused_with_the_names_of_those_that_have_one(client: TestClient) -> None:
    assert refusal(post(client, method="gan")) == (422, "method", ["toy"])
    assert refusal(post(client, method="nested")) == (422, "method", ["toy"])
    assert client.get("/methods").json()[0]["likelihood"] is None
    assert post(client, method="none").status_code == 404


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"terms": 0}, "terms"),
        ({"terms": 1000}, "terms"),
        ({"terms": "some"}, "terms"),
        ({"terms": 2.5}, "terms"),
        ({"seed": -1}, "seed"),
        ({"index": 2**31}, "index"),
        ({"deadline_ms": 0}, "deadline_ms"),
        ({"priority": "urgent"}, "priority"),
        ({"steps": 3}, "steps"),
        ({"image": "no base64!"}, "image"),
        ({"image": ""}, "image"),
        ({"image": []}, "image"),
        ({"image": [""]}, "image"),
        ({"image": 3}, "image"),
        ({"class_label": 3}, "class_label"),
        ({"class_label": [[]]}, "class_label"),
    ],
    ids=str,
)
def test_a_field_that_is_wrong_is_named_with_what_it_may_be(client: TestClient, fields: Any, field: str) -> None:
    body = {"method": "toy", "image": base64.b64encode(npy(IMAGES[0])).decode(), **fields}
    status, named, allowed = refusal(client.post("/likelihood", json=body))
    assert (status, named) == (422, field)
    assert allowed is not None


@pytest.mark.parametrize(
    ("query", "field"),
    [({"terms": "x"}, "terms"), ({"seed": "9" * 5000}, "seed"), ({"n": "1"}, "n"), ({"index": "-1"}, "index")],
    ids=str,
)
def test_a_field_of_the_query_is_named_too(client: TestClient, query: Any, field: str) -> None:
    assert refusal(upload(client, npy(IMAGES), NPY, **query))[:2] == (422, field)


def test_a_body_of_another_kind_is_refused(client: TestClient) -> None:
    for media_type in ("text/plain", "image/tiff", "multipart/form-data"):
        assert upload(client, b"x", media_type).status_code == 415
    assert client.post("/likelihood", content=b"{", headers={"Content-Type": "application/json"}).status_code == 400


def test_an_answer_has_an_etag_of_its_pixels_and_is_kept(client: TestClient) -> None:
    first = post(client, IMAGES, seed=11)
    again = upload(client, npy(IMAGES), NPY, seed=11)
    assert (first.headers["trilemma-cache"], again.headers["trilemma-cache"]) == ("miss", "hit")
    assert first.headers["etag"] == again.headers["etag"] != post(client, IMAGES[::-1], seed=11).headers["etag"]
    headers = {"If-None-Match": first.headers["etag"], "Content-Type": NPY}
    query = {"method": "toy", "seed": 11, "terms": 4}
    unchanged = client.post("/likelihood", params=query, content=npy(IMAGES), headers=headers)
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert first.headers["trilemma-seed"] == "11"


def test_images_and_terms_are_counted(client: TestClient) -> None:
    def count(name: str) -> float:
        lines = client.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(f'{name}{{method="toy"}}'))

    before = count("trilemma_likelihood_images_total"), count("trilemma_likelihood_terms_sum")
    post(client, IMAGES, terms=7)
    after = count("trilemma_likelihood_images_total"), count("trilemma_likelihood_terms_sum")
    assert (after[0] - before[0], after[1] - before[1]) == (5, 7)


def test_a_request_for_too_much_work_says_how_many_terms_it_may_have(tmp_path: Path) -> None:
    write_bundle(tmp_path / "toy")
    with serve(tmp_path, ToyRuntime(), max_request_s=1.0) as client:
        service: Any = client.app.state.service  # type: ignore[attr-defined]
        service.engine.scheduler.costs.set(service.models.served()["toy"].digest, {1: 0.1, 4: 0.1})
        status, field, allowed = refusal(post(client, IMAGES, terms=200))
        assert (status, field) == (422, "terms")
        assert post(client, IMAGES, terms=allowed["max"] - 2).status_code in (200, 429)
        refused = post(client, deadline_ms=100)
        assert (refused.status_code, refused.json()["type"]) == (429, "urn:trilemma:overloaded")


def test_a_request_under_way_is_cancelled_by_its_id(tmp_path: Path) -> None:
    write_bundle(tmp_path / "toy")
    runtime = Held()
    answers: list[Any] = []
    with serve(tmp_path, runtime) as client:

        def ask() -> None:
            headers = {"Content-Type": NPY, "X-Request-ID": "mine"}
            answers.append(client.post("/likelihood?method=toy", content=npy(IMAGES), headers=headers))

        thread = threading.Thread(target=ask)
        thread.start()
        assert runtime.entered.wait(WITHIN_S)
        assert client.delete("/requests/mine").status_code == 204
        runtime.go.set()
        thread.join()
        assert answers[0].status_code == 409
        assert client.app.state.service.engine.scheduler.active == 0  # type: ignore[attr-defined]


def test_an_upload_has_a_limit_of_its_own_and_few_are_held_at_a_time(tmp_path: Path) -> None:
    write_bundle(tmp_path / "toy")
    runtime = Held()
    with serve(tmp_path, runtime, max_body_bytes=400, max_upload_bytes=1000) as client:
        runtime.go.set()
        assert post(client, IMAGES).status_code == 200
        assert upload(client, npy(np.repeat(IMAGES, 10, 0)), NPY).status_code == 200
        too_long = upload(client, npy(np.repeat(IMAGES, 12, 0)), NPY)
        assert (too_long.status_code, too_long.json()["max_bytes"]) == (413, 1000)
        assert post(client, "a" * 1000).status_code == 413
        runtime.go.clear()
        threads = [
            threading.Thread(target=upload, args=(client, npy(np.repeat(IMAGES, 10, 0)), NPY), kwargs={"seed": seed})
            for seed in range(100, 100 + MAX_UPLOADS)
        ]
        for thread in threads:
            thread.start()
        while len(client.app.state.service.engine.jobs) < MAX_UPLOADS:  # type: ignore[attr-defined]
            pass
        assert upload(client, npy(np.repeat(IMAGES, 10, 0)), NPY).status_code == 503
        assert upload(client, b"", NPY).status_code == 422  # a short one is not held
        runtime.go.set()
        for thread in threads:
            thread.join()
        assert upload(client, npy(np.repeat(IMAGES, 10, 0)), NPY).status_code == 200
