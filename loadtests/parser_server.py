"""The service on one of PROTOCOLS: `python -m loadtests.parser_server --http NAME`, then its own options."""

import argparse
import sys
from functools import partial
from typing import Any
from unittest.mock import patch

from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service import __main__ as service
from service.http import server
from service.settings import Settings

SERVED, HTTPTOOLS, H11 = "as served", "httptools, without bounds", "h11"
PROTOCOLS = SERVED, HTTPTOOLS, H11
UVICORNS = {HTTPTOOLS: HttpToolsProtocol, H11: H11Protocol}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--http", choices=PROTOCOLS, required=True)
    chosen, sys.argv[1:] = parser.parse_known_args()
    with patch.object(service, "options", partial(options, chosen.http)):  # all else is as it is served
        service.main()


def options(name: str, app: FastAPI, settings: Settings) -> dict[str, Any]:
    """As the service's own."""
    own = server.options(app.state.service.metrics, settings)
    return {**own, "http": UVICORNS.get(name, own["http"])}


if __name__ == "__main__":
    main()
