"""A replica's answer, and the one that the caller gets."""

from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
from starlette.types import Send

from cluster import events
from cluster.call import Headers, passed_on


@dataclass(frozen=True)
class Answer:
    """A whole one."""

    status: int
    headers: Headers
    body: bytes

    @classmethod
    async def read(cls, response: aiohttp.ClientResponse) -> "Answer":
        """Raises aiohttp.ClientError if the replica is gone before its end."""
        body, headers = await response.read(), passed_on(response.raw_headers)
        length = response.headers.get("Content-Length")  # that of an answer to HEAD is not that of its body
        if length is None and response.status not in (204, 304):
            length = str(len(body))
        return cls(response.status, headers if length is None else with_length(headers, length), body)

    @classmethod
    def json(cls, content: Any) -> "Answer":
        return cls.ok("application/json", orjson.dumps(content))

    @classmethod
    def ok(cls, content_type: str, body: bytes) -> "Answer":
        return cls(200, with_length([(b"content-type", content_type.encode())], str(len(body))), body)


class Sink:
    """Where the one answer to a request goes."""

    def __init__(self, send: Send, path: str) -> None:
        self._send = send
        self._path = path
        self._begun = False

    async def whole(self, answer: Answer) -> None:
        """An answer that is not a stream; after the beginning of one, its last event."""
        if self._begun:
            await self.piece(events.failed(answer.body))
            await self.end()
            return
        await self._send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        await self._send({"type": "http.response.body", "body": answer.body})

    async def begin(self, response: aiohttp.ClientResponse) -> None:
        """A stream, or its beginning again."""
        if self._begun:
            await self.piece(events.restarted(self._path))
            return
        self._begun = True
        headers = passed_on(response.raw_headers)
        await self._send({"type": "http.response.start", "status": response.status, "headers": headers})

    async def piece(self, content: bytes) -> None:
        await self._send({"type": "http.response.body", "body": content, "more_body": True})

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


def with_length(headers: Headers, length: str) -> Headers:
    return [*headers, (b"content-length", length.encode())]
