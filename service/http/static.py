"""The pages at `/` and `/docs`: the files of `service/page` as they are."""

from os import PathLike, stat_result
from pathlib import Path

from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

FOLDER = Path(__file__).parent.parent / "page"
ASSETS = "/page"


class WholeFiles:
    """ASGI middleware: a file is never sent in part, which RFC 9110, section 14.2, allows. Starlette refuses a `Range`
    that it does not understand in plain text."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [header for header in scope["headers"] if header[0] != b"range"]
        await self.app({**scope, "headers": headers}, receive, send)


class Revalidated(StaticFiles):
    """Files that a browser keeps and asks about each time, so that a page is never made of two versions' files."""

    def file_response(
        self, full_path: str | PathLike[str], stat_result: stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers["Cache-Control"] = "no-cache"
        response.headers["Accept-Ranges"] = "none"
        return response


files = Revalidated(directory=FOLDER)


async def index(request: Request) -> Response:
    return await files.get_response("index.html", request.scope)


async def docs(request: Request) -> Response:
    return await files.get_response("docs/index.html", request.scope)


WHOLE = [Middleware(WholeFiles)]
COMPRESSED = [*WHOLE, Middleware(GZipMiddleware)]
ROUTES = [
    Route("/", index, middleware=COMPRESSED),
    Route("/docs", docs, middleware=COMPRESSED),
    # Not compressed: 2 MB take 100 ms, and the event loop is for the callers.
    Mount(f"{ASSETS}/vendor", Revalidated(directory=FOLDER / "vendor"), middleware=WHOLE),
    Mount(ASSETS, files, middleware=COMPRESSED),
]
