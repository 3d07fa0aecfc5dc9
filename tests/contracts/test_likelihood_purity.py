"""The numbers of an image's likelihood are a function of its request: the same bytes in any company."""

import asyncio
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.contracts.conftest import serving

METHODS = ["vdm", "ddim"]
IMAGES = 12


def asked() -> list[dict[str, Any]]:
    """A request for each image alone, and for all of them, by either model."""
    whole = [{"method": method, "index": 0, "count": IMAGES} for method in METHODS]
    return whole + [{**one, "index": index, "count": 1} for one in whole for index in range(IMAGES)]


def drawn() -> NDArray[np.uint8]:
    """Bright strokes on black, of any kind."""
    canvas = np.zeros((IMAGES, 1, 28, 28), dtype=np.uint8)
    for index in range(IMAGES):
        canvas[index, 0, 4:24, 5 + index : 9 + index] = 200 + index
    return canvas


async def score(client: Any, request: dict[str, Any]) -> bytes:
    content = io.BytesIO()
    np.save(content, drawn()[request["index"] :][: request["count"]])
    query = {"method": request["method"], "index": request["index"], "terms": 3, "seed": 9, "class_label": "1"}
    headers = {"Content-Type": "application/x-npy", "Accept": "application/x-npy"}
    answer = await client.post("/likelihood", params=query, content=content.getvalue(), headers=headers)
    assert answer.status_code == 200, answer.text
    return bytes(np.load(io.BytesIO(answer.content)).tobytes())


def test_images_have_the_same_bytes_alone_and_in_a_batch_beside_requests_for_images() -> None:
    async def alone() -> list[bytes]:
        async with serving(methods=METHODS, workers=1, max_batch=1, max_backlog_s=3600) as client:
            return [await score(client, request) for request in asked()]

    async def together() -> list[bytes]:
        async with serving(full_batches=True, methods=METHODS, workers=2, threads=2, max_backlog_s=3600) as client:
            images = [client.post("/generate", json={"method": method, "steps": 5, "n": 8}) for method in METHODS]
            scored, _ = await asyncio.gather(
                asyncio.gather(*(score(client, request) for request in asked())), asyncio.gather(*images)
            )
            return list(scored)

    expected, found = asyncio.run(alone()), asyncio.run(together())
    assert found == expected
    for model in range(2):  # all images in one request have the bytes of the requests for each
        assert found[model] == b"".join(found[2 + model * IMAGES :][:IMAGES])
    assert len(set(found)) == len(found)
