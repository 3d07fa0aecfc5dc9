"""`./run serve`: reads the settings and serves until SIGTERM or SIGINT, then finishes what is accepted and exits 0."""

import signal
import sys

import uvicorn
from pydantic_settings import CliApp

from service.app import create_app
from service.settings import Settings
from service.telemetry import logs


def main() -> None:
    try:
        settings = CliApp.run(Settings)
        logs.configure(settings)
        app = create_app(settings)
    except (OSError, ValueError) as error:  # ValueError is pydantic's too
        sys.exit(f"./run serve: {error}")
    # A worker that comes back from a step must not wait 5 ms for its turn while callers come in one after the other:
    # at 3 times the capacity 1.2 % of the promises were broken with half a millisecond, and 0.5 % with a tenth.
    sys.setswitchinterval(0.0001)
    # uvicorn drains on these, then raises them again for the handler that was there before it: this one. Before it
    # listens there is nothing to finish.
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: sys.exit(0))
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,  # longer than a proxy keeps its connections: else it sends into one that is being closed
        timeout_graceful_shutdown=settings.shutdown_s,  # else half a body that was never sent on holds it up for ever
    )


if __name__ == "__main__":
    main()
