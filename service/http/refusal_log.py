"""A line in the log, now and then, about what is refused before it is a request: only the metrics count each."""

import math
import time
from collections.abc import Callable

import structlog

from service.errors import Problem

log = structlog.get_logger()

EVERY_S = 10.0  # a line at most: a flood fills no disk, and costs the event loop nothing


class RefusalLog:
    """Of one server."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._quiet_until_s = -math.inf
        self._unsaid = 0

    def note(self, problem: Problem, client: tuple[str, int] | None) -> None:
        """Says who was refused and why, and how many were since the line before."""
        if self._clock() < self._quiet_until_s:
            self._unsaid += 1
            return
        log.warning(
            "no request",
            client=client[0] if client else None,
            status=problem.status.value,
            reason=problem.detail,
            others_since_the_last_line=self._unsaid,
        )
        self._quiet_until_s = self._clock() + EVERY_S
        self._unsaid = 0
