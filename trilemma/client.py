"""The client, for threads and for asyncio.

Fields are those of `POST /generate`: steps, seed, class_label, n, solver, eta, deadline_ms, … An answer is a pure
function of its request, so that one that got lost, or 429, is asked for again, after as long as `Retry-After` says.
"""

from collections.abc import AsyncGenerator, Generator
from typing import Any, Self

import httpx
import numpy as np
from httpx_retries import Retry, RetryTransport
from httpx_sse import aconnect_sse, connect_sse
from numpy.typing import NDArray

from trilemma.answers import Generated, Step, array, refusal, told

URL = "http://127.0.0.1:8000"
TIMEOUT = httpx.Timeout(10, read=600)


class Client:
    """Of the server at `url`, with an API key where it wants one."""

    def __init__(self, url: str = URL, key: str | None = None, retries: int = 4) -> None:
        self._http = httpx.Client(**_options(url, key, retries))

    def generate(self, method: str, **fields: Any) -> Generated:
        """Images and all that made them. Raises Refused, httpx.TransportError."""
        return Generated(self._post("application/json", method, fields).json())

    def array(self, method: str, **fields: Any) -> NDArray[np.float32]:
        """Images (n, C, H, W) in [−1, 1], as the network gave them. Raises as `generate`."""
        return array(self._post("application/x-npy", method, fields).content)

    def stream(self, method: str, **fields: Any) -> Generator[Step | Generated, None, None]:
        """Each step, with a preview every `preview_every`, and Generated at last. Raises as `generate`.

        Closing it, or leaving its loop, cancels the work.
        """
        body = {"method": method, **fields}
        with connect_sse(self._http, "POST", "/generate", json=body) as source:
            if not source.response.is_success:
                source.response.read()
                raise refusal(source.response)
            for event in source.iter_sse():
                if (said := told(event)) is not None:
                    yield said

    def methods(self) -> list[dict[str, Any]]:
        """What is served, as `GET /methods` has it. Raises as `generate`."""
        response = self._http.get("/methods")
        if not response.is_success:
            raise refusal(response)
        served: list[dict[str, Any]] = response.json()
        return served

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _post(self, accept: str, method: str, fields: dict[str, Any]) -> httpx.Response:
        response = self._http.post("/generate", json={"method": method, **fields}, headers={"Accept": accept})
        if not response.is_success:
            raise refusal(response)
        return response


class AsyncClient:
    """The same for asyncio."""

    def __init__(self, url: str = URL, key: str | None = None, retries: int = 4) -> None:
        self._http = httpx.AsyncClient(**_options(url, key, retries))

    async def generate(self, method: str, **fields: Any) -> Generated:
        """As Client's."""
        return Generated((await self._post("application/json", method, fields)).json())

    async def array(self, method: str, **fields: Any) -> NDArray[np.float32]:
        """As Client's."""
        return array((await self._post("application/x-npy", method, fields)).content)

    async def stream(self, method: str, **fields: Any) -> AsyncGenerator[Step | Generated, None]:
        """As Client's; `contextlib.aclosing` closes it at once where its loop is left early."""
        body = {"method": method, **fields}
        async with aconnect_sse(self._http, "POST", "/generate", json=body) as source:
            if not source.response.is_success:
                await source.response.aread()
                raise refusal(source.response)
            async for event in source.aiter_sse():
                if (said := told(event)) is not None:
                    yield said

    async def methods(self) -> list[dict[str, Any]]:
        """As Client's."""
        response = await self._http.get("/methods")
        if not response.is_success:
            raise refusal(response)
        served: list[dict[str, Any]] = response.json()
        return served

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _post(self, accept: str, method: str, fields: dict[str, Any]) -> httpx.Response:
        response = await self._http.post("/generate", json={"method": method, **fields}, headers={"Accept": accept})
        if not response.is_success:
            raise refusal(response)
        return response


def _options(url: str, key: str | None, retries: int) -> dict[str, Any]:
    retry = Retry(total=retries, allowed_methods=["GET", "POST"], backoff_factor=0.25)
    return {
        "base_url": url,
        "headers": {} if key is None else {"Authorization": f"Bearer {key}"},
        "timeout": TIMEOUT,
        "transport": RetryTransport(retry=retry),
    }
