"""Traces: none unless asked for; one from the HTTP request to the end of its job."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from support.service.bundled_model import BASE_WEIGHTS
from support.service.played_worker.worker import PlayedWorker
from support.service.serving import running

from service.ops import tracing
from service.queue import connect
from service.settings import Settings, trace_exporter
from service.store import Store

FACT = {"subject": "Lyon", "prompt": "{} is a city in the country of", "target_new": "Italy"}
OTEL = ("OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT")


@pytest.fixture(autouse=True)
def _untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OTEL:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tracing, "_provider", None)


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], dict[str, Span]]]:
    """A collector that the variables point to; gives the spans that have reached it by name."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            return

    def spans() -> dict[str, Span]:
        assert tracing._provider is not None
        tracing._provider.force_flush()
        requests = [ExportTraceServiceRequest.FromString(body) for body in bodies]
        return {
            span.name: span
            for request in requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        }

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    tracing.configure("api")
    yield spans
    assert tracing._provider is not None
    tracing._provider.shutdown()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("variables", "exporter"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://here:4318"}, "otlp_proto_http"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "otlp_proto_http"),
        ({"OTEL_TRACES_EXPORTER": "console"}, "console"),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://here"}, None),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}, None),
    ],
)
def test_the_standard_variables_decide_on_the_exporter(
    variables: dict[str, str], exporter: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert trace_exporter() == exporter


def test_an_edit_is_one_trace(
    collector: Callable[[], dict[str, Span]], settings: Settings, model: Store
) -> None:
    with running(settings) as url:
        assert httpx.post(f"{url}/edits", json={"facts": [FACT]}, timeout=20).status_code == 202
    client = connect(str(settings.redis_url))
    PlayedWorker(client, model.root, weights=BASE_WEIGHTS).work()
    client.close()
    spans = collector()
    asked, job = spans["POST /edits"], spans["edit"]
    assert (job.trace_id, job.parent_span_id) == (asked.trace_id, asked.span_id)
    assert "optimise" in [event.name for event in job.events]
    assert {a.key for a in job.attributes} == {"jeep.job_id", "jeep.attempt"}


def test_a_request_to_the_worker_carries_the_trace(
    collector: Callable[[], dict[str, Span]], settings: Settings, worker: PlayedWorker
) -> None:
    parent = f"00-{'a' * 32}-{'b' * 16}-01"
    with running(settings) as url:
        headers = {"traceparent": parent}
        httpx.post(f"{url}/generate", json={"prompt": "Lyon"}, headers=headers, timeout=20)
    span = collector()["POST /generate"]
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == ("a" * 32, "b" * 16)
    [asked] = worker.asked
    assert asked.traceparent == f"00-{'a' * 32}-{span.span_id.hex()}-01"


def test_an_unknown_exporter_does_not_stop_the_service(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "pigeon")
    tracing.configure("api")
    assert "no exporter 'pigeon' is installed" in caplog.text
    with tracing.span("edit", None):
        assert tracing.traceparent() is None


def test_without_the_variables_no_exporter_is_imported() -> None:
    code = (
        "import sys, service.serve\n"
        "from service.ops import tracing\n"
        "tracing.configure('api')\n"
        "with tracing.span('edit', None): tracing.event('optimise')\n"
        "print([m for m in sys.modules if m.startswith('opentelemetry.exporter')])\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
