"""Runs a command whose options are a pydantic model, and ends it with one clear line where it cannot go on."""

import contextlib
import signal
import sys
from collections.abc import Iterator, Sequence

from pydantic import ValidationError
from pydantic_settings import BaseSettings, CliApp, SettingsError

from models.failures import Failure


def run(settings: type[BaseSettings], arguments: Sequence[str] | None = None) -> None:
    """Reads the options, by default the process's, and runs `settings.cli_cmd`.

    A Failure, an option that is missing or out of range and a file that cannot be read or written each end the
    process with a line on stderr. Anything else is our own fault and keeps its traceback.
    """
    program = settings.model_config["cli_prog_name"]
    try:
        CliApp.run(settings, cli_args=list(arguments) if arguments is not None else None)
    except Failure as failure:
        _end(f"{program}: {failure}", failure.exit_code)
    except ValidationError as error:
        _end(f"{program}: {'; '.join(_problems(error))}", 2)
    except SettingsError as error:
        _end(f"{program}: {error}", 2)
    except OSError as error:
        _end(f"{program}: {error}", 1)
    except KeyboardInterrupt:
        _end(f"{program}: stopped", 128 + signal.SIGINT)


def _problems(error: ValidationError) -> Iterator[str]:
    for detail in error.errors():
        option = ".".join(map(str, detail["loc"])).replace("_", "-")
        yield f"--{option}: {detail['msg']}"


def _end(message: str, exit_code: int) -> None:
    """Names of files may hold line breaks and terminal codes: neither gets through."""
    with contextlib.suppress(OSError):  # stderr may be on the disk that is full
        print("".join(c if c.isprintable() else ascii(c)[1:-1] for c in message), file=sys.stderr, flush=True)
    sys.exit(exit_code)
