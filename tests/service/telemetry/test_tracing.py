"""OpenTelemetry spans: in memory, and as a collector gets them from the real service."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import grpc
import httpx
import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.conftest import WITHIN_S, ToyRuntime, write_bundle
from tests.deploy.conftest import free_port, running
from tests.protocols.grpc_calls import failure, request, served, stub
from tests.service.conftest import generate, serve

PARTS = ["queue", "steps", "encode"]


@pytest.fixture(scope="module")
def provider() -> TracerProvider:
    """The process's one provider; only an app that traces uses it."""
    provider = TracerProvider()
    trace.set_tracer_provider(provider)
    return provider


@pytest.fixture
def exporter(provider: TracerProvider) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield exporter
    exporter.shutdown()


def spans(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def test_a_request_is_a_span_with_queue_steps_and_encode_one_after_the_other(
    tmp_path: Path, exporter: InMemorySpanExporter
) -> None:
    write_bundle(tmp_path / "toy")
    with serve(tmp_path, ToyRuntime(), trace=True) as client:
        assert generate(client, steps=3, n=2).status_code == 200
    by_name = spans(exporter)
    assert set(by_name) == {"POST /generate", *PARTS}
    request = by_name["POST /generate"]
    parts = [by_name[name] for name in PARTS]
    assert {part.parent.span_id for part in parts if part.parent} == {request.context.span_id}
    queue, steps, encode = parts
    assert (queue.end_time, steps.end_time) == (steps.start_time, encode.start_time)
    assert all(part.start_time <= part.end_time for part in parts if part.start_time and part.end_time)
    attributes = dict(request.attributes or {})
    assert (attributes["trilemma.method"], attributes["trilemma.steps"], attributes["trilemma.images"]) == ("toy", 3, 2)
    assert attributes["http.response.status_code"] == 200


def test_a_callers_trace_goes_on_in_the_service(tmp_path: Path, exporter: InMemorySpanExporter) -> None:
    write_bundle(tmp_path / "toy")
    with serve(tmp_path, ToyRuntime(), trace=True) as client:
        client.get("/methods", headers={"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"})
    context = spans(exporter)["GET /methods"].context
    assert trace.format_trace_id(context.trace_id) == "a" * 32


def test_a_call_over_grpc_is_a_span_of_its_callers_trace(tmp_path: Path, exporter: InMemorySpanExporter) -> None:
    write_bundle(tmp_path / "toy")
    metadata = [("traceparent", f"00-{'a' * 32}-{'b' * 16}-01")]
    with served(tmp_path, trace=True) as (_, address, _), stub(address) as calls:
        calls.ModelInfer(request(steps=3), metadata=metadata)
        failure(calls.ModelInfer, request(steps=0), metadata=metadata)
    asked, refused = (span for span in exporter.get_finished_spans() if span.name.startswith("inference."))
    assert asked.name == "inference.GRPCInferenceService/ModelInfer"
    assert trace.format_trace_id(asked.context.trace_id) == "a" * 32
    parts = [spans(exporter)[name] for name in PARTS]
    assert {part.parent.span_id for part in parts if part.parent} == {asked.context.span_id}
    codes = [dict(span.attributes or {})["rpc.grpc.status_code"] for span in (asked, refused)]
    assert codes == [grpc.StatusCode.OK.value[0], grpc.StatusCode.INVALID_ARGUMENT.value[0]]


def test_without_the_setting_nothing_is_traced_and_the_images_are_the_same(
    tmp_path: Path, exporter: InMemorySpanExporter
) -> None:
    write_bundle(tmp_path / "toy")
    with serve(tmp_path, ToyRuntime(), trace=True) as client:
        traced = generate(client, "image/png").content
    exporter.clear()
    with serve(tmp_path, ToyRuntime()) as client:
        assert generate(client, "image/png").content == traced
    assert not exporter.get_finished_spans()


def test_a_collector_gets_the_spans_of_the_real_service() -> None:
    received: list[str] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                received.extend(span.name for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    collector = HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=collector.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{(port := free_port())}"
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}"}
    try:
        command = [sys.executable, "-m", "service", "--port", str(port), "--trace", "true"]
        with running(command, f"{url}/readyz", {**os.environ, **environment}) as process:
            assert httpx.post(f"{url}/generate", json={"method": "ddim", "steps": 2}).is_success
            process.send_signal(signal.SIGTERM)
            assert process.wait(WITHIN_S) == 0
    finally:
        collector.shutdown()
        thread.join()
        collector.server_close()
    assert sorted(received) == sorted(["POST /generate", *PARTS])
