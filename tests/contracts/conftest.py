"""What the contracts share: the shipped models behind the real application."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from httpx import ASGITransport, AsyncClient

from service.app import create_app
from service.settings import Settings
from tests.conftest import SHIPPED


@asynccontextmanager
async def serving(threads: int = 2) -> AsyncIterator[AsyncClient]:
    """A client of an application over the shipped models, once it is ready."""
    app = create_app(Settings(bundles=SHIPPED.parent, threads=threads))
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=ASGITransport(app), base_url="http://test") as client,
    ):
        while (ready := await client.get("/readyz")).status_code == 503:
            assert ready.json()["status"] == "starting", ready.text
            await asyncio.sleep(0.01)
        yield client
