"""`./run serve`: reads the settings and serves until SIGTERM or SIGINT, then finishes what is accepted and exits 0."""

import signal

import uvicorn
from pydantic_settings import CliApp

from service import logs
from service.app import create_app
from service.settings import Settings


def main() -> None:
    settings = CliApp.run(Settings)
    logs.configure(settings)
    # uvicorn drains on these, then raises them again for the handler that was there before it: this one, so exit 0.
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: None)
    uvicorn.run(create_app(settings), host=settings.host, port=settings.port, log_config=None, access_log=False)


if __name__ == "__main__":
    main()
