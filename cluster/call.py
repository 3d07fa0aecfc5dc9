"""One request on its way to a replica: what it takes there, and what it says when it is sent once more.

An image is a pure function of its request, so a request may be sent as often as it takes to get one answer.
"""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import orjson
from starlette.types import Scope

from service.engine.scheduler import DUE_FACTOR

COMPUTING = ("/generate", "/invert", "/likelihood", "/v1/images/", "/v2/models/")
NAMES = {"model": "method", "num_inference_steps": "steps"}  # OpenAI's, by what they are here
OF_A_CONNECTION = frozenset(  # RFC 9110, section 7.6.1; the lengths are those of another body, once it is rewritten
    b"connection keep-alive proxy-connection te trailer transfer-encoding upgrade expect content-length date".split()
)
Headers = list[tuple[bytes, bytes]]


@dataclass(eq=False)
class Call:
    """A request. Times are on the clock of `time.perf_counter`."""

    verb: str
    path: str
    target: str  # the path as it was sent, with the query
    headers: Headers
    body: bytes
    arrived_s: float
    document: dict[str, Any] = field(default_factory=dict)  # the body, if it is a JSON object
    slots: dict[str, tuple[Any, Any]] = field(default_factory=dict)  # where a field is: what holds it, and its key
    key: bytes = b""  # of what decides the answer

    @classmethod
    def of(cls, scope: Scope, body: bytes, arrived_s: float) -> "Call":
        query = scope["query_string"]
        target = (scope["raw_path"] + (b"?" + query if query else b"")).decode("latin-1")
        call = cls(scope["method"], scope["path"], target, passed_on(scope["headers"]), body, arrived_s)
        headers = dict(call.headers)
        if b"x-request-id" not in headers:
            call.headers.append((b"x-request-id", uuid4().hex.encode()))
        if call.computes:
            call._read(headers)
        return call

    @property
    def computes(self) -> bool:
        return self.verb == "POST" and self.path.startswith(COMPUTING)

    @property
    def method(self) -> str:
        """The model that it names; empty where it is not known."""
        if self.path.startswith("/v2/models/"):
            return self.path.split("/")[3]
        return str(self.get("method", ""))

    @property
    def repeats(self) -> bool:
        """Whether another request with these bytes has the same answer: its seed is in it."""
        return "seed" in self.slots

    @property
    def due_within_s(self) -> float:
        """The caller's time limit, from the arrival."""
        limits = [value for name in ("deadline_ms", "max_ms") for value in [self.get(name, None)] if _is_number(value)]
        return min(limits, default=math.inf) / 1000

    def rows(self) -> int:
        """Rows of a step: images, twice with guidance."""
        images = self.get("n", 1)
        return (images if _is_number(images) else 1) * (1 if self.get("guidance", 1) in (1, None) else 2)

    def steps(self, default: int) -> int:
        steps = self.get("steps", None)
        return int(steps) if _is_number(steps) else default

    def due_s(self, work_s: float) -> float:
        """When the scheduler of a replica wants it done."""
        factor = DUE_FACTOR.get(self.get("priority", "normal"), DUE_FACTOR["normal"])
        return self.arrived_s + min(self.due_within_s, factor * work_s)

    def get(self, name: str, default: Any) -> Any:
        if name not in self.slots:
            return default
        holder, key = self.slots[name]
        return holder[key]

    def sent_again(self, now: float) -> None:
        """Takes the time that has passed off its time limits, which count from its arrival at a replica."""
        passed_ms = int(1000 * (now - self.arrived_s))
        limits = [name for name in ("deadline_ms", "max_ms") if _is_number(self.get(name, None))]
        if not limits or not passed_ms:
            return
        for name in limits:
            holder, key = self.slots[name]
            holder[key] = max(1, holder[key] - passed_ms)
        self.arrived_s += passed_ms / 1000
        self._write()

    def seeded(self, seed: str) -> None:
        """Fixes the seed that a replica drew, for the same images from the next one."""
        if self.document and "seed" not in self.slots and seed.isdecimal():
            self.document["seed"] = int(seed)
            self.slots["seed"] = self.document, "seed"
            self._write()

    def _read(self, headers: dict[bytes, bytes]) -> None:
        self.key = hashlib.blake2b(
            self.target.encode() + headers.get(b"accept", b"") + self.body, digest_size=8
        ).digest()
        try:
            document = orjson.loads(self.body)
        except orjson.JSONDecodeError:  # a form, an array, or what a replica will refuse
            return
        if isinstance(document, dict):
            self.document = document
            self.slots = dict(_tensors(document) if self.path.startswith("/v2") else _fields(document))

    def _write(self) -> None:
        self.body = orjson.dumps(self.document)


def passed_on(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The headers that are not about one connection alone."""
    return [(name, value) for name, value in headers if name.lower() not in OF_A_CONNECTION]


def _fields(document: dict[str, Any]) -> Iterable[tuple[str, tuple[Any, Any]]]:
    return ((NAMES.get(name, name), (document, name)) for name, value in document.items() if value is not None)


def _tensors(document: dict[str, Any]) -> Iterable[tuple[str, tuple[Any, Any]]]:
    """The inputs of the Open Inference Protocol, each an array of one element."""
    inputs = document.get("inputs")
    for tensor in inputs if isinstance(inputs, list) else []:
        data = tensor.get("data") if isinstance(tensor, dict) else None
        if isinstance(data, list) and len(data) == 1:
            yield str(tensor.get("name")), (data, 0)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
