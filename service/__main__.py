"""`./run serve`: reads the settings and serves until SIGTERM, SIGINT or SIGHUP; then it finishes what is accepted."""

import gc
import os
import signal
import socket
import sys
import threading
from collections import defaultdict

import structlog
import uvicorn
from pydantic import ValidationError
from pydantic_settings import CliApp

from service import resources
from service.app import create_app
from service.errors import shortened
from service.http.server import Server, options
from service.registry.time_limit import LOADING
from service.settings import PREFIX, Settings
from service.telemetry import logs

log = structlog.get_logger()

ACCEPTED_A_TURN = 16  # connections: libuv accepts one of each listener, and a probe's waits behind a thousand others
MIN_DESCRIPTORS = 64  # for those, the models, and a few connections
OF_CLIENTS = {"URL", "KEY"}  # the client's command reads them from the same environment


def main() -> None:
    try:
        settings = CliApp.run(Settings)
        logs.configure(settings)
        check_environment()
        check_descriptors()
        listener = listen(settings.host, settings.port)  # before any model is loaded
        if settings.grpc_port is not None:
            bind(settings.host, settings.grpc_port).close()  # gRPC listens by itself, later
        app = create_app(settings)
    except (OSError, ValueError, RecursionError) as error:  # ValueError is pydantic's too; of JSON it is the last
        print(f"./run serve: {explain(error)}", file=sys.stderr)
        sys.exit(2)
    # A worker that comes back from a step must not wait 5 ms for its turn while callers come in one after the other:
    # at 3 times the capacity 1.2 % of the promises were broken with half a millisecond, and 0.5 % with a tenth.
    sys.setswitchinterval(0.0001)
    # uvicorn drains on these, then raises them again for the handler that was there before it: this one. Before it
    # serves there is nothing to finish.
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, end)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))  # a terminal that is closed
    gc.freeze()  # what is imported stays: a full collection that looks at it stops the event loop for 30 to 60 ms
    listeners = [listener, *(listener.dup() for _ in range(ACCEPTED_A_TURN - 1))]
    Server(uvicorn.Config(app, **options(app.state.service.metrics, settings)), app.state.also_ends).run(
        sockets=listeners
    )


def end(*_: object) -> None:
    """Ends the process. A thread that still hangs in a runtime would abort it, were it ended with the interpreter."""
    if any(thread.name.startswith(LOADING) for thread in threading.enumerate()):
        os._exit(0)
    sys.exit(0)


def check_environment() -> None:
    """Names what looks like a setting and is none. Raises ValueError for one that is there in two spellings."""
    spellings = defaultdict[str, list[str]](list)
    for name in sorted(os.environ):
        if name.upper().startswith(PREFIX):
            spellings[name.upper().removeprefix(PREFIX)].append(name)
    for names in spellings.values():
        if len(names) > 1:
            raise ValueError(f"{' and '.join(names)} are one setting: keep one of them")
    known = OF_CLIENTS | {name.upper() for name in Settings.model_fields}
    if unknown := [names[0] for setting, names in spellings.items() if setting not in known]:
        log.warning("the environment has what is no setting", names=unknown)


def check_descriptors() -> None:
    """Raises OSError where libuv would end the process without a word."""
    most = resources.read().open_files
    if most is not None and most < MIN_DESCRIPTORS:
        raise OSError(f"at most {most} files may be open; it takes {MIN_DESCRIPTORS} or more (ulimit -n)")


def bind(host: str, port: int) -> socket.socket:
    """A socket that others can connect to. Raises OSError if the port is taken or the address is not this machine's."""
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


def listen(host: str, port: int) -> socket.socket:
    """Raises what `bind` raises."""
    listener = bind(host, port)
    shown = f"[{host}]" if ":" in host else host
    log.info("listening", url=f"http://{shown}:{listener.getsockname()[1]}")
    return listener


def explain(error: Exception) -> str:
    """What is wrong, on one line, with the names of the settings that it is about."""
    if not isinstance(error, ValidationError):
        return logs.printable(shortened(str(error)))
    return "; ".join(
        f"{name} (--{name.replace('_', '-')}): {each['msg']}, and it is {shortened(repr(each['input']), 100)}"
        for each in error.errors()
        for name in [".".join(map(str, each["loc"]))]
    )


if __name__ == "__main__":
    main()
