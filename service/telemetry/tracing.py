"""The parts of a request as OpenTelemetry spans, with `--trace`; without it they cost nothing.

FastAPI creates the span of a request over HTTP, and exports all spans to `OTEL_EXPORTER_OTLP_ENDPOINT`.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from fastapi.telemetry import TelemetryConfig
from opentelemetry import propagate, trace

from service.engine.jobs import Job
from service.telemetry.probes import PROBES

tracer = trace.get_tracer("trilemma")


def telemetry(enabled: bool) -> TelemetryConfig:
    """FastAPI's telemetry: spans of requests only, as Prometheus gets the metrics and stderr the log."""
    return {
        "tracing": enabled,
        "auto_configure": enabled,
        "metrics": False,
        "logs": False,
        "operation_spans": False,
        "exclude": lambda scope: scope["path"] in PROBES,
    }


def record(job: Job, answered_s: float) -> None:
    """Records the phases of a job as children of the request's span: queue, steps and encoding."""
    request = trace.get_current_span()
    if not request.is_recording():
        return
    request.set_attributes(
        {
            "trilemma.method": job.method,
            "trilemma.steps": job.steps,
            "trilemma.images": job.n,
            "trilemma.request_id": job.id,
        }
    )
    since_epoch_s = time.time() - time.perf_counter()
    moments = (job.submitted_s, job.started_s, job.finished_s, answered_s)
    for name, start_s, end_s in zip(("queue", "steps", "encode"), moments, moments[1:], strict=False):
        span = tracer.start_span(name, start_time=round(1e9 * (start_s + since_epoch_s)))
        span.end(round(1e9 * (end_s + since_epoch_s)))


@contextmanager
def call(path: str, metadata: Mapping[str, str] | None) -> Iterator[trace.Span]:
    """The span of a gRPC call, a child of its caller's `traceparent`; no metadata: one that is not recorded."""
    if metadata is None:
        yield trace.INVALID_SPAN
        return
    name = path.removeprefix("/")
    service, _, method = name.partition("/")
    attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
    with tracer.start_as_current_span(
        name,
        propagate.extract(metadata),
        trace.SpanKind.SERVER,
        attributes,
        record_exception=False,  # a refusal is no error
        set_status_on_exception=False,
    ) as span:
        yield span
