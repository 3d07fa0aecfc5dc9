"""The client, for threads and for asyncio.

Fields are those of `POST /generate`: steps, seed, class_label, guidance, n, index, solver, settings, deadline_ms, …
`image` and `mask` are a PIL image, a path, or a file's bytes; `noise` and `to_noise` are arrays, as `invert` has them.
The same request has the same images, so a request that got lost, or 429, is sent again, after `Retry-After`.
"""

from collections.abc import AsyncGenerator, Generator
from typing import Any, Self

import httpx
from httpx_sse import aconnect_sse, connect_sse
from numpy import float32
from numpy.typing import NDArray
from PIL import Image

from trilemma import answers
from trilemma.answers import Generated, Inverted, Likelihood, Step, from_event, generated
from trilemma.errors import Lost, connected, media_type_of, require
from trilemma.transport import AsyncTransport, Picture, Transport, message, options, upload

URL = "http://127.0.0.1:8000"
JSON, NPY, EVENTS = "application/json", "application/x-npy", "text/event-stream"
Images = Image.Image | NDArray[Any]
CUT = "the stream ended before the images were finished"


class Client:
    """Of the server at `url`, with an API key if it needs one. Every call raises TrilemmaError."""

    def __init__(self, url: str = URL, key: str | None = None, retries: int = 4) -> None:
        self._http = httpx.Client(**options(url, key, retries, Transport()))

    def generate(self, method: str, **fields: Any) -> Generated:
        """The images, and the server's JSON about them."""
        return generated(self._post(JSON, method, fields))

    def invert(self, method: str, image: Picture, **fields: Any) -> Inverted:
        """The starting noise that the model makes the image of, by DDIM run backwards."""
        return answers.inverted(self._post(JSON, method, {"image": image, **fields}, "/invert"))

    def array(self, method: str, **fields: Any) -> NDArray[float32]:
        """The images (n, C, H, W) in about [−1, 1], as the model left them."""
        return answers.array(self._post(NPY, method, fields))

    def stream(self, method: str, **fields: Any) -> Generator[Step | Generated, None, None]:
        """Each step, with a preview every `preview_every`, and Generated at the end.

        Closing it, or leaving its loop, cancels the work.
        """
        finished = False
        with connected(), connect_sse(self._http, "POST", "/generate", **message(EVENTS, method, fields)) as source:
            if not is_stream(source.response):
                source.response.read()
            require(source.response, EVENTS)
            for event in source.iter_sse():
                if (update := from_event(event)) is not None:
                    finished = isinstance(update, Generated)
                    yield update
        if not finished:
            raise Lost(CUT)

    def likelihood(self, method: str, image: Images, **fields: Any) -> Likelihood:
        """Bits per dimension of a picture, or of an array of images (n, C, H, W), uint8 or float32 in [−1, 1].

        Fields are those of `POST /likelihood`.
        """
        with connected():
            response = self._http.post("/likelihood", **upload(method, image, fields))
        require(response, JSON)
        return answers.likelihood(response.content)

    def methods(self) -> list[dict[str, Any]]:
        """The served methods, as `GET /methods` lists them."""
        with connected():
            response = self._http.get("/methods")
        require(response, JSON)
        return answers.methods(response.content)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _post(self, accept: str, method: str, fields: dict[str, Any], path: str = "/generate") -> bytes:
        with connected():
            response = self._http.post(path, **message(accept, method, fields))
        require(response, accept)
        return response.content


class AsyncClient:
    """The same for asyncio."""

    def __init__(self, url: str = URL, key: str | None = None, retries: int = 4) -> None:
        self._http = httpx.AsyncClient(**options(url, key, retries, AsyncTransport()))

    async def generate(self, method: str, **fields: Any) -> Generated:
        """As Client's."""
        return generated(await self._post(JSON, method, fields))

    async def invert(self, method: str, image: Picture, **fields: Any) -> Inverted:
        """As Client's."""
        return answers.inverted(await self._post(JSON, method, {"image": image, **fields}, "/invert"))

    async def array(self, method: str, **fields: Any) -> NDArray[float32]:
        """As Client's."""
        return answers.array(await self._post(NPY, method, fields))

    async def stream(self, method: str, **fields: Any) -> AsyncGenerator[Step | Generated, None]:
        """As Client's; `contextlib.aclosing` closes it at once where its loop is left early."""
        finished = False
        sent = message(EVENTS, method, fields)
        with connected():
            async with aconnect_sse(self._http, "POST", "/generate", **sent) as source:
                if not is_stream(source.response):
                    await source.response.aread()
                require(source.response, EVENTS)
                async for event in source.aiter_sse():
                    if (update := from_event(event)) is not None:
                        finished = isinstance(update, Generated)
                        yield update
        if not finished:
            raise Lost(CUT)

    async def likelihood(self, method: str, image: Images, **fields: Any) -> Likelihood:
        """As Client's."""
        with connected():
            response = await self._http.post("/likelihood", **upload(method, image, fields))
        require(response, JSON)
        return answers.likelihood(response.content)

    async def methods(self) -> list[dict[str, Any]]:
        """As Client's."""
        with connected():
            response = await self._http.get("/methods")
        require(response, JSON)
        return answers.methods(response.content)

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _post(self, accept: str, method: str, fields: dict[str, Any], path: str = "/generate") -> bytes:
        with connected():
            response = await self._http.post(path, **message(accept, method, fields))
        require(response, accept)
        return response.content


def is_stream(response: httpx.Response) -> bool:
    """Whether it is to be read event by event: else its body says what is wrong."""
    return response.is_success and media_type_of(response) == EVENTS
