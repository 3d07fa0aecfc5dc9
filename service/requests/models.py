"""What requests and answers need of the registry: the models that are served, and how far along the service is."""

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal, Protocol

from service.engine.placement import Placement

Status = Literal["starting", "ready", "draining", "no model", "engine stopped"]


@dataclass(frozen=True)
class Readiness:
    status: Status
    methods: list[str]  # that are served
    failed_bundles: dict[str, str]  # folders of bundles that were refused, and why
    out_of_service: list[str]  # methods whose model kept failing


class Models(Protocol):
    def find(self, method: str) -> Placement:
        """Raises Unavailable while the service starts or drains, UnknownMethod if no model has this name."""
        ...

    def served(self) -> Mapping[str, Placement]:
        """By method; empty while the service starts."""
        ...

    def readiness(self) -> Readiness: ...

    def reload(self) -> "Future[None]":
        """Loads what changed in the bundle folder, then switches to it. Returns at once."""
        ...
