"""The standard health service (https://grpc.io/docs/guides/health-checking/): whether requests are served.

Of the whole server, "", and of the inference service. A call needs no key.
"""

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.errors import Unavailable
from service.grpc_oip import grpc_status
from service.grpc_oip.messages import SERVICE
from service.requests.models import Models

Response = health_pb2.HealthCheckResponse
NAMES = ("", SERVICE.full_name)
MAX_WATCHERS = 64
WATCH_S = 1.0  # between two looks


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """It belongs to the event loop."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self.draining = asyncio.Event()
        self._watchers = 0

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 # the protocol's name
        if request.service not in NAMES:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service")
        return Response(status=self._status(request.service))

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802
        """The status, and each change of it until the server ends."""
        if self._watchers == MAX_WATCHERS:
            await grpc_status.abort(context, Unavailable("there are too many watchers"))
        self._watchers += 1
        try:
            last = None
            while True:
                status = self._status(request.service)
                if status != last:
                    await context.write(Response(status=status))
                    last = status
                if self.draining.is_set():
                    return
                await self._wait()
        finally:
            self._watchers -= 1

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(WATCH_S):
                await self.draining.wait()
        except TimeoutError:
            pass

    def _status(self, name: str) -> Any:
        if name not in NAMES:
            return Response.SERVICE_UNKNOWN
        ready = self.models.readiness().status == "ready" and not self.draining.is_set()
        return Response.SERVING if ready else Response.NOT_SERVING
