"""What can go wrong with a call. Everything that the client raises on its own is a TrilemmaError.

TrilemmaError
├── Refused      the server, or a proxy before it, answered with an error; `problem` is what it said
├── Lost         no answer, or one that was cut: the connection failed, or took too long
└── Unexpected   an answer that is not of a Trilemma server: a proxy's page, a redirect, JSON that is cut off
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import httpx
from httpx_retries import Retry

PROBLEM = "application/problem+json"
MAX_DETAIL = 200  # characters of an error that is no problem


class TrilemmaError(Exception):
    """The root of the family."""


class Refused(TrilemmaError):
    """The server's problem (RFC 9457); `problem["errors"]` names the fields and what they may be."""

    def __init__(self, problem: Mapping[str, Any], retry_after_s: float | None = None) -> None:
        again = "" if retry_after_s is None else f"; try again in {retry_after_s:.0f} s"
        super().__init__(f"{problem.get('status')} {problem.get('detail')}{again}")
        self.problem = problem
        self.status = problem.get("status")
        self.retry_after_s = retry_after_s  # None: the server did not say


class Lost(TrilemmaError):
    """No answer. The request may be sent again: the same request has the same images."""


class Unexpected(TrilemmaError):
    """An answer that this client cannot read."""


@contextmanager
def connected() -> Iterator[None]:
    """Raises Lost for what httpx raises."""
    try:
        yield
    except httpx.RequestError as error:
        raise Lost(str(error) or type(error).__name__) from error


@contextmanager
def readable() -> Iterator[None]:
    """Raises Unexpected for what parsing raises."""
    try:
        yield
    except (KeyError, TypeError, ValueError, OSError, EOFError) as error:
        raise Unexpected(f"the answer cannot be read: {type(error).__name__}: {error}") from error


def require(response: httpx.Response, media_type: str) -> None:
    """Raises Refused or Unexpected unless this is a success of that type. The response was read."""
    if response.is_error:
        raise refusal(response)
    if response.has_redirect_location:
        raise Unexpected(f"the server redirects to {response.headers['location']}: use that URL")
    if (actual := media_type_of(response)) != media_type:
        raise Unexpected(f"the answer is {actual or 'of no type'}, not {media_type} {excerpt(response)}".rstrip())


def refusal(response: httpx.Response) -> Refused:
    """Of a response that was read."""
    problem = {"status": response.status_code, "detail": excerpt(response) or response.reason_phrase}
    if media_type_of(response) == PROBLEM:
        with suppress(ValueError, TypeError):
            problem = {**problem, **response.json()}
    return Refused(problem, retry_after_s(response))


def retry_after_s(response: httpx.Response) -> float | None:
    """Seconds that the server asks to wait; None if it does not."""
    with suppress(KeyError, ValueError):
        return Retry().parse_retry_after(response.headers["retry-after"])
    return None


def media_type_of(response: httpx.Response) -> str:
    """Without parameters; empty if there is none."""
    content_type: str = response.headers.get("content-type", "")
    return content_type.partition(";")[0].strip().lower()


def excerpt(response: httpx.Response) -> str:
    """The beginning of a text; nothing of a page, whose beginning is markup."""
    text = "" if "html" in media_type_of(response) else " ".join(response.text.split())
    return text if len(text) <= MAX_DETAIL else f"{text[:MAX_DETAIL]}…"
