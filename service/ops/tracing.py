"""OpenTelemetry traces, where the standard ``OTEL_…`` variables ask for them (extra ``otel``).

Without them nothing is imported, and every function here does nothing.  A job and a
request to the worker carry the ``traceparent`` of the HTTP request, so the spans of both
processes form one trace.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from service.settings import trace_exporter

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider

log = logging.getLogger(__name__)
_provider: TracerProvider | None = None
NAME = "jeep"


def configure(part: str) -> None:
    """Export this process's spans if that is wanted; the service is named ``jeep-<part>``.

    A missing exporter is logged, and the service runs without traces.
    """
    global _provider
    exporter = trace_exporter()
    if exporter is None:
        return
    try:
        _provider = _made(part, exporter)
    except Exception as error:
        log.error("no traces: %s (extra otel: pip install 'jeep-edit[otel]')", error)


def _made(part: str, exporter: str) -> TracerProvider:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    found = entry_points(group="opentelemetry_traces_exporter", name=exporter)
    if not found:
        raise LookupError(f"no exporter {exporter!r} is installed")
    resource = Resource.create()
    if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": f"{NAME}-{part}"}))
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(next(iter(found)).load()()))
    return provider


def of_fastapi() -> TelemetryConfig:
    """Return FastAPI's tracing configuration: every HTTP request, below the client's span.

    Errors are not traced: their messages quote the request.
    """
    wanted: TelemetryConfig = {
        "tracing": _provider is not None,
        "metrics": False,
        "logs": False,
        "operation_spans": False,
        "auto_configure": False,
    }
    if _provider is not None:
        wanted["tracer_provider"] = _provider
    return wanted


def traceparent() -> str | None:
    """Return the trace context that makes spans elsewhere children of the current one."""
    if _provider is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")


@contextmanager
def span(name: str, parent: str | None, **attributes: str | int) -> Iterator[None]:
    """A span around a block, below the ``traceparent`` that came with the work."""
    if _provider is None:
        yield
        return
    tracer = _provider.get_tracer(NAME)
    with tracer.start_as_current_span(name, _context(parent), attributes=_named(attributes)):
        yield


def recorded(name: str, parent: str | None, start_ns: int, **attributes: str | int) -> None:
    """Record a span from ``start_ns`` (Unix time) until now, for work without a block."""
    if _provider is not None:
        _provider.get_tracer(NAME).start_span(
            name, _context(parent), attributes=_named(attributes), start_time=start_ns
        ).end()


def event(name: str) -> None:
    """Record an event in the current span."""
    if _provider is not None:
        from opentelemetry.trace import get_current_span

        get_current_span().add_event(name)


def _context(parent: str | None) -> Context:
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {} if parent is None else {"traceparent": parent}
    return TraceContextTextMapPropagator().extract(carrier, Context())


def _named(attributes: dict[str, Any]) -> dict[str, Any]:
    return {f"{NAME}.{name}": value for name, value in attributes.items()}
