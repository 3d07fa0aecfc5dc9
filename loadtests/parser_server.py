"""The service on one of PROTOCOLS: `python -m loadtests.parser_server --http NAME`, then its own options."""

import argparse
import sys
from functools import partial
from typing import Any
from unittest.mock import patch

from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from loadtests.bounded_httptools import BoundedHttptools
from service import __main__ as service
from service.http import server
from service.settings import Settings

SERVED, PLAIN, HTTPTOOLS = "h11 as served", "h11 of uvicorn", "httptools, bounded"
PROTOCOLS = SERVED, PLAIN, HTTPTOOLS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--http", choices=PROTOCOLS, required=True)
    chosen, sys.argv[1:] = parser.parse_known_args()
    with patch.object(service, "options", partial(options, chosen.http)):  # all else is as it is served
        service.main()


def options(name: str, app: FastAPI, settings: Settings) -> dict[str, Any]:
    """As the service's own."""
    others = {PLAIN: H11Protocol, HTTPTOOLS: partial(BoundedHttptools, settings.max_header_bytes)}
    own = server.options(app, settings)
    return {**own, "http": others.get(name, own["http"])}


if __name__ == "__main__":
    main()
