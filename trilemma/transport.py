"""How a request is sent: with retries where they help, and as JSON that may have NumPy's numbers and pictures, or as an
image."""

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from httpx_retries import Retry, RetryTransport
from numpy.typing import NDArray
from PIL import Image, ImageOps

from trilemma.errors import refusal, retry_after_s

Picture = Image.Image | Path | bytes
TIMEOUT = httpx.Timeout(10, read=600)
MAX_WAIT_S = 60.0  # before a retry; a server that asks for more has refused


class Transport(httpx.HTTPTransport):
    """Raises Refused for an answer that is not to be waited for: the retries above would sleep as long as it says."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        if (retry_after_s(response) or 0) > MAX_WAIT_S:
            response.read()
            raise refusal(response)
        return response


class AsyncTransport(httpx.AsyncHTTPTransport):
    """The same for asyncio."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        if (retry_after_s(response) or 0) > MAX_WAIT_S:
            await response.aread()
            raise refusal(response)
        return response


def options(
    url: str, key: str | None, retries: int, transport: httpx.BaseTransport | httpx.AsyncBaseTransport
) -> dict[str, Any]:
    """For httpx.Client or AsyncClient."""
    retry = Retry(total=retries, allowed_methods=["GET", "POST"], backoff_factor=0.25, max_backoff_wait=MAX_WAIT_S)
    return {
        "base_url": url,
        "headers": {} if key is None else {"Authorization": f"Bearer {key}".encode()},
        "timeout": TIMEOUT,
        "transport": RetryTransport(transport=transport, retry=retry),
    }


def message(accept: str, method: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Body and headers of `POST /generate`. Raises ValueError for a number that is not finite."""
    body = json.dumps({"method": method, **fields}, default=plain, allow_nan=False)
    return {"content": body, "headers": {"Content-Type": "application/json", "Accept": accept}}


def upload(method: str, image: Image.Image | NDArray[Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Body, query and headers of a request whose body is a picture, or an array of uint8 or float32."""
    content = io.BytesIO()
    if isinstance(image, np.ndarray):
        np.save(content, np.ascontiguousarray(image), allow_pickle=False)
        media_type = "application/x-npy"
    else:
        ImageOps.exif_transpose(image).save(content, "png")  # which has no EXIF data to turn it by
        media_type = "image/png"
    query = {name: value for name, value in {"method": method, **fields}.items() if value is not None}
    headers = {"Content-Type": media_type, "Accept": "application/json"}
    return {"content": content.getvalue(), "params": query, "headers": headers}


def plain(value: Any) -> Any:
    """NumPy's numbers as Python's; files, pictures and arrays of numbers in base64.

    A float32 of 0.37 is 0.37, which as a double has more digits.
    """
    match value:
        case np.floating():
            return float(str(value))
        case np.generic():
            return value.item()
        case np.ndarray():
            return plain(value.astype("<f4").tobytes())
        case Path():
            return plain(value.read_bytes())
        case bytes():
            return base64.b64encode(value).decode()
        case Image.Image():
            stream = io.BytesIO()
            value.save(stream, "PNG")
            return plain(stream.getvalue())
    raise TypeError(f"{type(value).__name__} is not a value for JSON")
