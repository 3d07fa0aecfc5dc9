"""What a web page may do: its browser reaches servers that its user's network hides from others.

- A page of another site may read nothing without CORS, yet it can send a POST. So what changes something or costs work
  takes a request of the same origin, or of one that CORS lists. The rule is that of Go's `http.CrossOriginProtection`
  (https://words.filippo.io/csrf): `Sec-Fetch-Site` where a browser sends it, else `Origin` against `Host`.
- A page may give its own name this server's address, and is of the same origin then (DNS rebinding). TLS rules that
  out, and only over TLS, or to this machine, does a browser send `Sec-Fetch-Site`. Without that header a page has to
  call the server by a name that no stranger can have: an address, a name without a dot, one of a private domain, or
  one that the operator lists. Where there are API keys it need not, as such a page has none.

Programs that are no browsers send neither header, and call the server by any name.
"""

from collections.abc import Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import CrossSite, Problem, UntrustedHost
from service.http.problem_responses import answer
from service.telemetry.metrics import Metrics

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")  # RFC 9110, section 9.2.1
PRIVATE = (".localhost", ".local", ".internal", ".home.arpa")  # RFC 6761, 6762 and 8375, and ICANN for `.internal`
ANY = "*"


class BrowserCheck:
    """ASGI middleware. `origins` are those that CORS lists, `hosts` the server's own public names; ANY for all."""

    def __init__(self, app: ASGIApp, origins: Sequence[str], hosts: Sequence[str], metrics: Metrics) -> None:
        self.app = app
        self.origins = frozenset(origins)
        self.hosts = frozenset(hosts)
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (problem := self._problem(scope["method"], Headers(scope=scope))) is not None:
            await answer(problem, scope["path"], self.metrics)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _problem(self, method: str, headers: Headers) -> Problem | None:
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if (origin is None and site is None) or ANY in self.origins or origin in self.origins:
            return None
        host = headers.get("host", "")
        if site is None and not self._is_trusted(host):
            return UntrustedHost(host)
        if method in SAFE_METHODS:
            return None
        same = site in ("same-origin", "none") if origin is None or site is not None else origin.endswith(f"://{host}")
        return None if same else CrossSite(origin or "another site")

    def _is_trusted(self, host: str) -> bool:
        """Whether a Host header has one of the server's names, or one that nobody can own on the public internet."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:  # as `[`
            return False
        return ANY in self.hosts or name in self.hosts or is_private(name)


def is_private(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return "." not in name or name.endswith(PRIVATE)
    return True
