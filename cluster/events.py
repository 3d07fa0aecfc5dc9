"""A stream of server-sent events that goes on when the replica that sent it is gone."""

from collections.abc import AsyncIterable, AsyncIterator

import orjson
from fastapi.sse import format_sse_event

DETAIL = "the replica that computed this is gone; another one begins again, with the same seed"


async def whole(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """The stream in pieces that end where an event does, so that another stream can go on there."""
    rest = b""
    async for chunk in chunks:
        events, end, rest = (rest + chunk).rpartition(b"\n\n")
        if end:
            yield events + end
    if rest:
        yield rest


def restarted(path: str) -> bytes:
    """The mark before a stream that begins again; a comment where the events are another protocol's."""
    if path.startswith("/v1"):
        return f": {DETAIL}\n\n".encode()
    return format_sse_event(event="restarted", data_str=orjson.dumps({"detail": DETAIL}).decode())


def failed(body: bytes) -> bytes:
    """The last event, where no other replica can go on; its data is the refusal as the protocol has it."""
    return format_sse_event(event="error", data_str=body.decode())
