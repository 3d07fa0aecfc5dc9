"""One address for all replicas: each request gets exactly one answer, if need be from another replica than the first.

A refusal of one replica (429, 503) is asked of the others before the caller sees it. A request whose replica is gone is
sent to another, with the rest of its time.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import ASGIApp, Receive, Scope, Send
from yarl import URL

from cluster import events
from cluster.answer import Answer, Sink
from cluster.call import Call
from cluster.fleet import AWAY_S, Fleet, Replica
from cluster.router_metrics import RouterMetrics
from service.errors import Problem, Unavailable
from service.http.body_limit import BodyLimit
from service.http.problem_responses import response as problem_response
from service.http.request_head import RequestHead
from service.settings import Settings

ASKED_ELSEWHERE = (429, 503)
MAX_LOST = 3  # replicas that may be gone while they have a request: it may be what ends them
WITHOUT_REPLICA_S = 30.0  # for which a request waits for a replica, unless its own time limit is shorter
POLL_S = 0.05
CONNECT_S = 2.0
EVENTS = "text/event-stream"
REPLICAS = "/cluster/replicas"


def application(fleet: Fleet, metrics: RouterMetrics, settings: Settings) -> ASGIApp:
    """The router behind the same limits of heads and bodies as the service has."""
    limited = BodyLimit(
        Router(fleet, metrics),
        max_bytes=settings.max_body_bytes,
        max_upload_bytes=settings.max_upload_bytes,
        timeout_s=settings.client_timeout_s,
        metrics=metrics,
    )
    return RequestHead(limited, max_bytes=settings.max_header_bytes, metrics=metrics)


class Router:
    """ASGI application. The body of a request has been read whole (BodyLimit)."""

    def __init__(self, fleet: Fleet, metrics: RouterMetrics) -> None:
        self.fleet = fleet
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        body = (await receive())["body"]
        call, task = Call.of(scope, body, time.perf_counter()), asyncio.current_task()
        assert task is not None

        def leave(_: object) -> None:
            task.cancel()

        gone = asyncio.ensure_future(receive())  # returns when the client disconnects
        gone.add_done_callback(leave)
        try:
            await self._answer(call, Sink(send, call.path))
        except Problem as problem:
            gone.remove_done_callback(leave)
            await problem_response(problem, call.path)(scope, receive, send)
        except asyncio.CancelledError:
            if not gone.done():
                raise
        finally:
            gone.remove_done_callback(leave)
            gone.cancel()

    async def _live(self, receive: Receive, send: Send) -> None:
        """Keeps connections to the replicas from the server's start to its end."""
        await receive()
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),  # shorter than a replica keeps its own
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.session.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _answer(self, call: Call, sink: Sink) -> None:
        if call.path == "/healthz":
            await sink.whole(Answer.json({"status": "ok"}))
        elif call.path == "/metrics":
            await sink.whole(Answer.ok(CONTENT_TYPE_LATEST, generate_latest(self.metrics.registry)))
        elif call.path == REPLICAS:
            targets = [f"{url.host}:{url.port}" for r in self.fleet.replicas.values() for url in [URL(r.url)]]
            await sink.whole(Answer.json([{"targets": targets}]))
        elif call.path == "/admin/reload" or call.verb == "DELETE":
            await sink.whole(await self._of_each(call))
        else:
            await self._of_one(call, sink)

    async def _of_each(self, call: Call) -> Answer:
        """Asks one replica after the other. The worst answer of a reload; of a cancellation the best."""
        answers = []
        for replica in [*self.fleet.replicas.values()]:
            try:
                async with self._asked(call, replica) as response:
                    answers.append(await Answer.read(response))
            except aiohttp.ClientError:
                self._lost(replica)
        if not answers:
            raise Unavailable("there is no replica to answer")
        return (min if call.verb == "DELETE" else max)(answers, key=lambda answer: answer.status)

    async def _of_one(self, call: Call, sink: Sink) -> None:
        """The answer of the replica that has it first. Raises Unavailable if there is none in time."""
        refused: set[str] = set()
        refusal: Answer | None = None
        lost = 0
        while (replica := await self._place(call, refused, wait=refusal is None)) is not None:
            try:
                async with self._asked(call, replica) as response:
                    if response.status not in ASKED_ELSEWHERE:
                        await self._pass_on(call, response, sink)
                        return
                    refused.add(replica.id)
                    refusal = await Answer.read(response)
                    self.metrics.asked_elsewhere.inc()
            except aiohttp.ClientError as error:
                self._lost(replica)
                self.metrics.sent_again.inc()
                lost += not isinstance(error, aiohttp.ClientConnectorError)
                if lost == MAX_LOST:
                    raise Unavailable(f"{lost} replicas were gone while they had this request") from error
            call.sent_again(time.perf_counter())
        assert refusal is not None
        await sink.whole(refusal)

    async def _place(self, call: Call, refused: set[str], wait: bool) -> Replica | None:
        """A replica to ask, if need be after waiting for one. None if all have refused."""
        until_s = call.arrived_s + min(call.due_within_s, WITHOUT_REPLICA_S)
        while (replica := self.fleet.choose(call, time.perf_counter(), refused)) is None and wait:
            if time.perf_counter() >= until_s:
                raise Unavailable("there is no replica to answer")
            await asyncio.sleep(POLL_S)
        return replica

    @asynccontextmanager
    async def _asked(self, call: Call, replica: Replica) -> AsyncIterator[aiohttp.ClientResponse]:
        """The beginning of the replica's answer. Leaving early tells the replica that nobody waits for the rest."""
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in call.headers]
        url = URL(replica.url + call.target, encoded=True)
        replica.begin(call)
        try:
            async with self.session.request(
                call.verb, url, headers=headers, data=call.body or None, allow_redirects=False
            ) as response:
                yield response
        finally:
            replica.end(call)

    async def _pass_on(self, call: Call, response: aiohttp.ClientResponse, sink: Sink) -> None:
        if response.content_type != EVENTS:
            await sink.whole(await Answer.read(response))
            return
        call.seeded(response.headers.get("Trilemma-Seed", ""))
        await sink.begin(response)
        async for piece in events.whole(response.content.iter_any()):
            await sink.piece(piece)
        await sink.end()

    def _lost(self, replica: Replica) -> None:
        replica.away_until_s = time.perf_counter() + AWAY_S
