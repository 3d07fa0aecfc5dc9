"""What the contracts share: the shipped models behind the real application."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from httpx import ASGITransport, AsyncClient

from loadtests.server_process import is_loaded
from service.app import create_app
from service.settings import Settings
from tests.conftest import SHIPPED


@asynccontextmanager
async def serving(full_batches: bool = False, **changes: Any) -> AsyncIterator[AsyncClient]:
    """A client of an application over the shipped models, once it is ready, whose batches are full if that is asked."""
    app = create_app(Settings(bundles=SHIPPED.parent, **changes))
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=ASGITransport(app), base_url="http://test") as client,
    ):
        while not is_loaded(ready := await client.get("/readyz")):
            await asyncio.sleep(0.01)
        assert ready.is_success, ready.text
        if full_batches:  # whatever pays on this machine
            app.state.service.engine.scheduler.costs.efficient_batch_size = lambda model, most, share=1.0: most
        yield client
