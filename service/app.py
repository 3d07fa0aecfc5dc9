"""The application: the parts put together, and its life from loading the bundles to draining."""

import asyncio
import math
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict

import structlog
from asgi_correlation_id import CorrelationIdMiddleware
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from service import devices, keys, oip, openai, openapi, refusals, resources, routes, static
from service.headers import SecurityHeaders
from service.keys import KeyCheck
from service.limits import BodyLimit
from service.metrics import Metrics
from service.observe import Observe
from service.resources import Resources
from service.service import OpenRuntime, Service
from service.settings import Settings
from service.tracing import telemetry
from service.watch import follow

log = structlog.get_logger()

VERSION = "0.1.0"  # pyproject.toml has it too


def is_request_id(value: str) -> bool:
    """Whether a caller's X-Request-ID is kept; another one is replaced."""
    return re.fullmatch(r"[\w.:-]{1,128}", value) is not None


def load_or_end(service: Service, limits: Resources) -> None:
    """Loads. What is wrong there and is not a bundle's fault ends the process: it would be starting for ever."""
    try:
        service.load()
    except Exception as error:
        log.critical("loading failed", exc_info=error)
        os._exit(1)  # from a thread, at once: nothing is accepted yet
    in_use, cache = resources.resident_bytes(), service.settings.cache_bytes
    if limits.memory_bytes is not None and in_use + cache > limits.memory_bytes:
        log.warning("a full cache will not fit the memory", limit=limits.memory_bytes, in_use=in_use, cache_bytes=cache)


def report(limits: Resources, service: Service) -> None:
    """Shows what the process may use, in the log and the metrics; open files are among the process's own metrics."""
    service.metrics.processors.set(limits.processors)
    service.metrics.memory_limit.set(math.inf if limits.memory_bytes is None else limits.memory_bytes)
    log.info("resources", **asdict(limits), workers=service.settings.workers, threads=service.settings.threads)


def create_app(settings: Settings, open_runtime: OpenRuntime | None = None, limits: Resources | None = None) -> FastAPI:
    """The ASGI application. Raises OSError or ValueError if the file of keys, or the device, cannot be used.

    Loading starts with its lifespan and goes on behind `/healthz` and `/readyz`.
    """
    service = Service(settings, devices.choose(settings), open_runtime)
    limits = limits or resources.read()
    report(limits, service)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(asyncio.to_thread(load_or_end, service, limits))
        following = asyncio.create_task(follow(service, settings.watch_s))
        yield
        following.cancel()
        await loading
        await asyncio.to_thread(service.drain)

    app = FastAPI(
        title="Trilemma",
        version=VERSION,
        summary="Images from diffusion models that sample fast",
        lifespan=lifespan,
        telemetry=telemetry(settings.trace),
    )
    app.state.service = service
    for module in (routes, oip, openai):
        app.include_router(module.router)
    openapi.install(app)
    app.router.routes.extend(static.ROUTES)
    refusals.install(app, service.metrics)
    guard(app, settings, service.metrics)
    app.add_middleware(Observe, metrics=service.metrics)
    app.add_middleware(CorrelationIdMiddleware, header_name="X-Request-ID", validator=is_request_id)
    return app


def guard(app: FastAPI, settings: Settings, metrics: Metrics) -> None:
    """What stands between callers and handlers; the last added is met first."""
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes, metrics=metrics)
    if settings.keys is not None:
        app.add_middleware(KeyCheck, keys=keys.read(settings.keys), metrics=metrics)
    if settings.cors_origins:  # outside the keys: a browser asks for permission without one
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "If-None-Match", "X-Request-ID"],
            expose_headers=["ETag", "Retry-After", "Server-Timing", "Trilemma-Seed", "X-Request-ID"],
        )
    app.add_middleware(SecurityHeaders)
