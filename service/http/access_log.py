"""Around every request: its latency into the metrics and one line into the log."""

import time

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.telemetry.metrics import Metrics
from service.telemetry.probes import PROBES

log = structlog.get_logger()


class AccessLog:
    """ASGI middleware. A handler finds when its request arrived in `request.state.arrived_s`, on perf_counter's clock;
    one that answers for a model leaves its name in `request.state.method`.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        state = scope.setdefault("state", {})
        start_s = state.setdefault("arrived_s", time.perf_counter())
        status = 500

        async def send_noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_noting_status)
        finally:
            seconds = time.perf_counter() - start_s
            path, method = scope["path"], state.get("method")
            if method is not None:
                self.metrics.request_seconds.labels(method, status).observe(seconds)
            write = log.debug if path in PROBES else log.info
            write("request", verb=scope["method"], path=path, status=status, ms=round(1000 * seconds, 1), method=method)
