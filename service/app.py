"""The application: the parts put together, and its life from loading the bundles to draining."""

import asyncio
import math
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import structlog
from asgi_correlation_id import CorrelationIdMiddleware
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from service import resources
from service.engine.admission import Admission
from service.engine.loop import Engine
from service.engine.scheduler import Scheduler
from service.http import (
    balancing,
    invert,
    likelihood,
    oip,
    openai,
    openai_edits,
    openapi,
    problem_responses,
    routes,
    static,
)
from service.http.access_log import AccessLog
from service.http.auth import KeyCheck
from service.http.body_limit import BodyLimit
from service.http.browser_check import ANY, BrowserCheck
from service.http.head_method import HeadMethod
from service.http.request_head import RequestHead
from service.http.security_headers import SecurityHeaders
from service.registry import selection
from service.registry.opening import OpenRuntime
from service.registry.registry import Registry
from service.requests.cache import Cache
from service.requests.keys import Keyring
from service.requests.state import ServiceState
from service.resources import Resources
from service.runtimes import choice
from service.settings import Settings
from service.telemetry.load_report import LoadCollector
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import telemetry

if TYPE_CHECKING:
    from service.grpc_oip.grpc_server import GrpcServer

log = structlog.get_logger()

VERSION = "0.1.0"  # pyproject.toml has it too
EXPOSED_HEADERS = [  # that a page of another origin may read; it may read a few of the standard's own anyway
    "ETag",
    "Inference-Header-Content-Length",
    "Retry-After",
    "Server-Timing",
    "Trilemma-Cache",
    "Trilemma-Chosen",
    "Trilemma-Seed",
    "X-Request-ID",
]


def is_request_id(value: str) -> bool:
    """Whether a caller's X-Request-ID is kept; another one is replaced."""
    return re.fullmatch(r"[\w.:-]{1,128}", value, re.ASCII) is not None


async def load_or_exit(registry: Registry, limits: Resources, cache_bytes: int) -> None:
    """Loads. What is wrong there and is not a bundle's fault ends the process: it would be starting for ever."""
    try:
        await asyncio.wrap_future(registry.reload())
    except Exception as error:
        log.critical("loading failed", exc_info=error)
        os._exit(1)  # at once: nothing is accepted yet
    limit, in_use = limits.memory_bytes, resources.resident_bytes()
    if limit is not None and in_use + cache_bytes > limit:
        log.warning("a full cache will not fit the memory", limit=limit, in_use=in_use, cache_bytes=cache_bytes)


def report(limits: Resources, workers: int, metrics: Metrics) -> None:
    """Shows what the process may use, in the log and the metrics; open files are among the process's own metrics."""
    metrics.workers.set(workers)
    metrics.processors.set(limits.processors)
    metrics.memory_limit.set(math.inf if limits.memory_bytes is None else limits.memory_bytes)
    log.info("resources", **asdict(limits), workers=workers)


def create_app(settings: Settings, open_runtime: OpenRuntime | None = None, limits: Resources | None = None) -> FastAPI:
    """The ASGI application. Raises OSError or ValueError if the file of keys, the device or a method cannot be had.

    Loading starts with its lifespan and goes on behind `/healthz` and `/readyz`.
    """
    selection.check(settings)
    metrics, device = Metrics(), choice.choose(settings)
    limits, workers = limits or resources.read(), device.workers(settings.workers)
    report(limits, workers, metrics)
    engine = new_engine(settings, workers, metrics)
    registry = Registry(settings, engine, device, metrics, open_runtime)
    metrics.registry.register(LoadCollector(engine.forecast, registry.served))
    state = ServiceState(registry, engine, metrics, Cache(settings.cache_bytes))
    keys = None if settings.keys is None else Keyring(settings.keys)
    grpc = None if settings.grpc_port is None else new_grpc_server(state, settings, keys)

    app = FastAPI(
        title="Trilemma",
        version=VERSION,
        summary="Step-level continuous batching for diffusion models",
        lifespan=lambda _: lifespan(registry, settings, limits, grpc),
        openapi_url=None,  # openapi.py answers there
        docs_url=None,  # static.py has a page that loads nothing from another host
        redoc_url=None,
        telemetry=telemetry(settings.trace),
    )
    app.state.service = state
    app.state.also_ends = [] if grpc is None else [grpc.stop]  # when HTTP does
    for module in (routes, balancing, invert, likelihood, oip, openai, openai_edits):
        app.include_router(module.router)
    openapi.install(app)
    app.router.routes.extend(static.ROUTES)
    problem_responses.install(app, metrics)
    guard(app, settings, keys, metrics)
    app.add_middleware(AccessLog, metrics=metrics)
    app.add_middleware(
        CorrelationIdMiddleware, header_name="X-Request-ID", update_request_header=False, validator=is_request_id
    )
    return app


@asynccontextmanager
async def lifespan(
    registry: Registry, settings: Settings, limits: Resources, grpc: "GrpcServer | None"
) -> AsyncIterator[None]:
    """Loads the bundles, and finishes what is accepted at the end."""
    if grpc is not None:
        await grpc.start()
    loading = asyncio.create_task(load_or_exit(registry, limits, settings.cache_bytes))
    yield
    loading.cancel()
    ends = [asyncio.to_thread(registry.drain), *([] if grpc is None else [grpc.stop()])]
    await asyncio.gather(*ends)


def new_grpc_server(state: ServiceState, settings: Settings, keys: Keyring | None) -> "GrpcServer":
    from service.grpc_oip.grpc_server import GrpcServer  # here, as it takes memory and a part of a second

    return GrpcServer(state, settings, keys, VERSION)


def new_engine(settings: Settings, workers: int, metrics: Metrics) -> Engine:
    scheduler = Scheduler(settings.max_batch, workers=workers, max_active=settings.max_queued_images)
    admission = Admission(scheduler, settings.max_queued_images, settings.max_backlog_s, settings.max_request_s)
    engine = Engine({}, scheduler, admission, metrics)
    metrics.queue_limit.set(settings.max_queued_images)
    metrics.active_images.set_function(lambda: engine.images("active"))
    metrics.waiting_images.set_function(lambda: engine.images("waiting"))
    return engine


def guard(app: FastAPI, settings: Settings, keys: Keyring | None, metrics: Metrics) -> None:
    """What stands between callers and handlers; the last added is met first."""
    app.add_middleware(HeadMethod)
    app.add_middleware(
        BodyLimit,
        max_bytes=settings.max_body_bytes,
        max_upload_bytes=settings.max_upload_bytes,
        timeout_s=settings.client_timeout_s,
        metrics=metrics,
    )
    if keys is not None:
        app.add_middleware(KeyCheck, keys=keys, metrics=metrics)
    hosts = settings.trusted_hosts if keys is None else [ANY]
    app.add_middleware(BrowserCheck, origins=settings.cors_origins, hosts=hosts, metrics=metrics)
    if settings.cors_origins:  # outside the keys: a browser asks for permission without one
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "HEAD", "POST", "DELETE"],
            allow_headers=["*"],  # clients' own differ with their versions, and there are no cookies to guard
            expose_headers=EXPOSED_HEADERS,
        )
    app.add_middleware(RequestHead, max_bytes=settings.max_header_bytes, metrics=metrics)
    app.add_middleware(SecurityHeaders)
