"""Around every call: who calls, how many there are, its turn, its id, its line in the log, and its status."""

import asyncio
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import grpc
import structlog
from asgi_correlation_id import correlation_id
from google.protobuf.message import DecodeError

from service.errors import MalformedBody, Problem, Unauthorized, Unavailable
from service.grpc_oip import grpc_status
from service.requests.generation import Origin
from service.requests.keys import Holder, Keyring
from service.requests.quota import Caller
from service.requests.turns import Turns
from service.telemetry import tracing
from service.telemetry.metrics import Metrics

log = structlog.get_logger()

Context = Any  # grpc.aio.ServicerContext, of bytes: what does not parse has an answer like the rest
REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)


@dataclass
class Arrival:
    """A request that has come, whoever sent it."""

    id: str
    arrived_s: float = field(default_factory=time.perf_counter)
    log_fields: dict[str, Any] = field(default_factory=dict)


class Rpcs:
    """It belongs to the event loop."""

    def __init__(self, keys: Keyring | None, most: int, traces: bool, metrics: Metrics) -> None:
        self.keys = keys
        self.most = most
        self.traces = traces
        self.metrics = metrics
        self.turns = Turns()
        self._active = 0

    def unary(
        self, path: str, request_type: Any, answer: Callable[[Any, Origin, Context], Awaitable[Any]], probes: bool
    ) -> grpc.RpcMethodHandler:
        """A call of one message each way. Probes need no key, and are answered however many calls there are."""

        async def handle(content: bytes, context: Context) -> bytes:
            try:
                observed, entered = self.observed(path, context, logged=not probes), self.entered(context, probes)
                with observed as arrival, entered as holder:
                    await self.turn(urgent=probes)
                    response = await answer(parsed(request_type, content), origin(arrival, holder), context)
                    message: bytes = response.SerializeToString()
                    return message
            except Problem as problem:
                await grpc_status.abort(context, problem)

        return grpc.unary_unary_rpc_method_handler(handle)

    async def turn(self, urgent: bool = False) -> None:
        """What comes at once on many calls is done over many turns of the event loop."""
        mine = asyncio.get_running_loop().create_future()
        self.turns.take(lambda: None if mine.done() else mine.set_result(None), urgent)
        await mine

    @contextmanager
    def entered(self, context: Context, probes: bool = False) -> Iterator[Holder]:
        """Who calls. Raises Unauthorized, or Unavailable where there are too many calls."""
        if probes:
            yield Holder(Caller(), None)
            return
        holder = Holder(Caller(), None) if self.keys is None else self.keys.find(authorization(context))
        if holder is None:
            raise Unauthorized
        if self._active >= self.most:
            raise Unavailable("there are too many calls")
        self._active += 1
        try:
            yield holder
        finally:
            self._active -= 1

    @contextmanager
    def observed(self, path: str, context: Context, logged: bool = True) -> Iterator[Arrival]:
        """A request until its answer: its latency's metric, its line in the log, its span. Raises Problems alone.

        Its status there is that of the same answer over HTTP.
        """
        arrival = Arrival(request_id(context))
        correlation_id.set(arrival.id)
        status = HTTPStatus.INTERNAL_SERVER_ERROR
        with tracing.call(path, metadata(context) if logged and self.traces else None) as span:
            try:
                yield arrival
                status = HTTPStatus.OK
            except Problem as problem:
                status = problem.status
                self.metrics.refused(problem)
                raise
            except asyncio.CancelledError:
                status = HTTPStatus.CONFLICT
                raise
            except Exception as error:
                log.error("a call failed", exc_info=error)
                raise Problem("an error of the server's own; its log has the request id of this answer") from error
            finally:
                span.set_attribute("rpc.grpc.status_code", grpc_status.code_of(status).value[0])
                self.note(arrival, path, status, log.info if logged else log.debug)

    def note(self, arrival: Arrival, path: str, status: HTTPStatus, write: Callable[..., Any] = log.info) -> None:
        """A request's end."""
        seconds, method = time.perf_counter() - arrival.arrived_s, arrival.log_fields.get("method")
        if method is not None:
            self.metrics.request_seconds.labels(method, status.value).observe(seconds)
        write("request", verb="gRPC", path=path, status=status.value, ms=round(1000 * seconds, 1), method=method)


def origin(arrival: Arrival, holder: Holder) -> Origin:
    return Origin(arrival.id, holder.caller, holder.budget, never, arrival.arrived_s, arrival.log_fields)


async def never() -> None:
    """gRPC cancels the task of a call whose client goes away, so there is nothing to wait for."""
    await asyncio.get_running_loop().create_future()


def parsed(request_type: Any, content: bytes) -> Any:
    """Raises MalformedBody."""
    try:
        return request_type.FromString(content)
    except DecodeError as error:
        raise MalformedBody("the message cannot be parsed") from error


def metadata(context: Context) -> dict[str, str]:
    """That is text; of a name that is there twice the first."""
    pairs = [(name, value) for name, value in context.invocation_metadata() or () if isinstance(value, str)]
    return dict(reversed(pairs))


def authorization(context: Context) -> bytes:
    return metadata(context).get("authorization", "").encode()


def request_id(context: Context) -> str:
    """The caller's `x-request-id`, or else a new one."""
    own = metadata(context).get("x-request-id", "")
    return own if REQUEST_ID.fullmatch(own) else uuid.uuid4().hex
