"""An ASGI application on a port and an event loop of its own, in a thread of a process that Ray started."""

import asyncio
import gc
import socket
import sys
import threading
import time
from collections.abc import Callable

import uvicorn
import uvloop
from starlette.types import ASGIApp

from service.http.server import options
from service.settings import Settings
from service.telemetry.metrics import Metrics

START_S = 30.0
SWITCH_S = 0.0001  # as in `./run serve`


class Host:
    """Serves from the beginning until `stop`."""

    def __init__(self, app: ASGIApp, metrics: Metrics, settings: Settings, listener: socket.socket) -> None:
        sys.setswitchinterval(SWITCH_S)
        self._server = uvicorn.Server(uvicorn.Config(app, lifespan="on", **options(metrics, settings)))
        self._thread = threading.Thread(target=self._run, args=(listener,), name="http", daemon=True)
        self._thread.start()
        until_s = time.monotonic() + START_S
        while not self._server.started:
            if not self.alive or time.monotonic() > until_s:
                raise RuntimeError("the server did not start")
            time.sleep(0.02)
        gc.freeze()

    def _run(self, listener: socket.socket) -> None:
        uvloop.run(self._serve(listener))

    async def _serve(self, listener: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        await self._server.serve(sockets=[listener])

    def call_soon(self, call: Callable[[], object]) -> None:
        """Has its event loop make the call."""
        self._loop.call_soon_threadsafe(call)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """Finishes what is accepted."""
        self._server.should_exit = True
        self._thread.join()


def listen(host: str, port: int) -> socket.socket:
    """A socket that a second process may share, so that a new one serves before the old one ends."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=2048, reuse_port=True)


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
