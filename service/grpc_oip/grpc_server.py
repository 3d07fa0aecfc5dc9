"""The gRPC server, in the service's own event loop, from its start to its end."""

import asyncio

import grpc
import structlog
from grpc_health.v1 import health_pb2_grpc

from service.grpc_oip.health import Health
from service.grpc_oip.infer_stream import InferStreams
from service.grpc_oip.inference_service import InferenceService
from service.grpc_oip.rpc import Rpcs
from service.requests.keys import Keyring
from service.requests.state import ServiceState
from service.settings import GRPC_CONNECTIONS, Settings

log = structlog.get_logger()

IDLE_MS = 75_000  # of a connection without calls, as HTTP has it
PING_MS, PONG_MS = 60_000, 20_000  # a client that does not answer is gone, or does not read
MIN_PING_MS = 10_000  # from clients; who pings more often is cut off
MAX_AGE_MS, LAST_CALLS_MS = 600_000, 3_600_000  # of a connection; so nobody holds its calls for ever
STREAMS = 128  # calls at a time on a connection
IDENTITY = 1  # of the bits of algorithms: a compressed message could be far longer than it looks


def options(settings: Settings) -> list[tuple[str, int]]:
    """The limits of https://grpc.github.io/grpc/core/group__grpc__arg__keys.html."""
    return [
        ("grpc.so_reuseport", 0),  # else a second server would share the port without a word
        ("grpc.max_receive_message_length", settings.max_body_bytes),
        ("grpc.max_metadata_size", settings.max_header_bytes),
        ("grpc.absolute_max_metadata_size", settings.max_header_bytes),
        ("grpc.max_concurrent_streams", STREAMS),
        ("grpc.max_allowed_incoming_connections", GRPC_CONNECTIONS),
        ("grpc.compression_enabled_algorithms_bitset", IDENTITY),
        ("grpc.server_handshake_timeout_ms", round(1000 * settings.client_timeout_s)),
        ("grpc.keepalive_time_ms", PING_MS),
        ("grpc.keepalive_timeout_ms", PONG_MS),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", MIN_PING_MS),
        ("grpc.max_connection_idle_ms", IDLE_MS),
        ("grpc.max_connection_age_ms", MAX_AGE_MS),
        ("grpc.max_connection_age_grace_ms", LAST_CALLS_MS),
    ]


class GrpcServer:
    def __init__(self, state: ServiceState, settings: Settings, keys: Keyring | None, version: str) -> None:
        self.state = state
        self.settings = settings
        self.keys = keys
        self.version = version
        self.port = 0
        self._stopping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises RuntimeError if the port is taken."""
        settings = self.settings
        rpcs = Rpcs(self.keys, settings.max_connections, settings.trace, self.state.metrics)
        self._streams = InferStreams(self.state, rpcs, settings.client_timeout_s)
        self._health = Health(self.state.models)
        # Beyond the calls that are answered, half as many again that are told that there are too many, as over HTTP.
        self._server = grpc.aio.server(
            options=options(settings), maximum_concurrent_rpcs=settings.max_connections * 3 // 2
        )
        service = InferenceService(self.state, rpcs, self._streams, self.version)
        self._server.add_generic_rpc_handlers((service.handlers(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        self.port = self._server.add_insecure_port(f"{host}:{settings.grpc_port}")
        await self._server.start()
        log.info("listening", url=f"grpc://{host}:{self.port}")

    async def stop(self) -> None:
        """Takes no new calls, and finishes those that are under way."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop())
        await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        self._health.draining.set()
        self._streams.draining.set()
        await self._server.stop(self.settings.shutdown_s)
