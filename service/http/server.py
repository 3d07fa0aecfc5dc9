"""uvicorn's options for serving the application."""

from functools import partial
from typing import Any

from service.http.connection import Connection
from service.http.connection_limit import ConnectionLimit
from service.http.turns import Turns
from service.settings import Settings
from service.telemetry.metrics import Metrics


def options(metrics: Metrics, settings: Settings) -> dict[str, Any]:
    """For `uvicorn.Config`, beside the application and where it listens; what it refuses is counted in `metrics`."""
    connection = partial(
        Connection,
        ConnectionLimit(settings.max_connections),
        Turns(),
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
