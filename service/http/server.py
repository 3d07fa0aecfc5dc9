"""uvicorn, and its options for serving the application."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import uvicorn

from service.http.connection import Connection
from service.http.connection_limit import ConnectionLimit
from service.http.refusal_log import RefusalLog
from service.requests.turns import Turns
from service.settings import Settings
from service.telemetry.metrics import Metrics


class Server(uvicorn.Server):
    """When it ends, `others` end too, at the same time."""

    def __init__(self, config: uvicorn.Config, others: Sequence[Callable[[], Awaitable[None]]]) -> None:
        super().__init__(config)
        self.others = others

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.gather(super().shutdown(sockets), *(end() for end in self.others))


def options(metrics: Metrics, settings: Settings) -> dict[str, Any]:
    """For `uvicorn.Config`, beside the application and where it listens; what it refuses is counted in `metrics`."""
    connection = partial(
        Connection,
        ConnectionLimit(settings.max_connections),
        Turns(),
        RefusalLog(),
        settings.max_header_bytes,
        settings.client_timeout_s,
        metrics,
    )
    return {
        "http": connection,
        "ws": "none",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "timeout_keep_alive": 75,  # longer than a proxy keeps its own: else it sends into one that is being closed
        "timeout_graceful_shutdown": settings.shutdown_s,  # else half a body that is never sent on holds it up for ever
    }
