"""An ASGI application on a port and an event loop of its own, in a thread of a process that Ray started."""

import gc
import socket
import sys
import threading
import time

import uvicorn
from starlette.types import ASGIApp

from service.http.server import options
from service.settings import Settings
from service.telemetry.metrics import Metrics

START_S = 30.0
SWITCH_S = 0.0001  # as in `./run serve`


class Host:
    """Serves from the beginning until `stop`."""

    def __init__(self, app: ASGIApp, metrics: Metrics, settings: Settings, listener: socket.socket, lifespan: str) -> None:
        sys.setswitchinterval(SWITCH_S)
        config = uvicorn.Config(app, lifespan=lifespan, **options(metrics, settings))
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name="http", daemon=True)
        self._thread.start()
        until_s = time.monotonic() + START_S
        while not self._server.started:
            if not self.alive or time.monotonic() > until_s:
                raise RuntimeError("the server did not start")
            time.sleep(0.02)
        gc.freeze()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """Finishes what is accepted."""
        self._server.should_exit = True
        self._thread.join()


def listen(host: str, port: int) -> socket.socket:
    """A socket that a second process may share, so that a new one serves before the old one ends."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((host, port))
    listener.listen(2048)
    return listener
